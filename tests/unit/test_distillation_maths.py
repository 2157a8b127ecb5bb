"""The maths of distillation against hand-computed values, the papers' equations and diffusers."""

import itertools
import math

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from sangsang.services.diffusion.distillation.lessons import (
    ConsistencyLesson,
    ProgressiveLesson,
    Question,
)
from sangsang.services.diffusion.distillation.networks import (
    Conditions,
    GuidedDenoiser,
    UnguidedDenoiser,
)
from sangsang.services.diffusion.distillation.progression import (
    PRESETS,
    Stage,
    checked,
    halvings,
    stages,
)
from sangsang.services.diffusion.distillation.trajectory import (
    CLEAN,
    NoiseLevel,
    NoiseSchedule,
    clean_that_reaches,
    ddim_step,
    noised,
    substeps,
    truncated_snr,
)

_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,
}
# cos and sin of angles: alpha^2 + sigma^2 = 1 by construction.
_ANGLES = (1.2, 0.7, 0.3)


def _schedule(prediction_type: str = "v_prediction") -> NoiseSchedule:
    zero_snr = prediction_type == "v_prediction"
    return NoiseSchedule(
        DDIMScheduler(
            **_SCHEDULER, prediction_type=prediction_type, rescale_betas_zero_snr=zero_snr
        )
    )


def _level(angle: float) -> NoiseLevel:
    return NoiseLevel(
        torch.full((1, 1, 1, 1), math.cos(angle)), torch.full((1, 1, 1, 1), math.sin(angle))
    )


def _latents(rows: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(rows, 2, 3, 3, generator=torch.Generator().manual_seed(seed))


def _conditions(rows: int = 4) -> Conditions:
    return Conditions(torch.zeros(rows, 2, 5), torch.zeros(1, 2, 5))


class _Output:
    def __init__(self, sample: Tensor) -> None:
        self.sample = sample


class _LinearUNet(torch.nn.Module):
    """Any smooth function of its inputs will do where equality of two ways is tested."""

    def forward(self, noisy: Tensor, timesteps: Tensor, contexts: Tensor) -> _Output:
        share = (timesteps.float() / 1000).view(-1, 1, 1, 1)
        return _Output(0.3 * noisy * share - 0.5 * noisy + contexts.mean() * share)


def test_one_ddim_step_of_a_hand_computed_pair() -> None:
    # z_t = 0.6 x + 0.8 eps with x = 2, eps = 1 is 2.0; at alpha 0.8, sigma 0.6 it is 2.2.
    at = NoiseLevel(torch.tensor(0.6), torch.tensor(0.8))
    to = NoiseLevel(torch.tensor(0.8), torch.tensor(0.6))
    noisy = noised(torch.tensor(2.0), torch.tensor(1.0), at)
    assert noisy.item() == pytest.approx(2.0)
    assert ddim_step(noisy, torch.tensor(2.0), at, to).item() == pytest.approx(2.2)


def test_target_of_two_hand_computed_steps() -> None:
    # Salimans & Ho, algorithm 2, in numbers. Two teacher's steps from z_t = 1 at (0.6, 0.8), over
    # (0.8, 0.6), to the end (1, 0), with the teacher saying x = 1 and then x = 2.
    at = NoiseLevel(torch.tensor(0.6), torch.tensor(0.8))
    middle = NoiseLevel(torch.tensor(0.8), torch.tensor(0.6))
    end = NoiseLevel(torch.tensor(0.96), torch.tensor(0.28))
    # eps = (1 - 0.6) / 0.8 = 0.5; z' = 0.8 + 0.3 = 1.1
    first = ddim_step(torch.tensor(1.0), torch.tensor(1.0), at, middle)
    assert first.item() == pytest.approx(1.1)
    # eps = (1.1 - 1.6) / 0.6 = -5/6; z'' = 1.92 - 0.28 * 5/6
    second = ddim_step(first, torch.tensor(2.0), middle, end)
    assert second.item() == pytest.approx(1.92 - 0.28 * 5 / 6)
    # x~ = (z'' - 0.35 z) / (0.96 - 0.35 * 0.6)
    wanted = (1.92 - 0.28 * 5 / 6 - 0.35) / 0.75
    assert clean_that_reaches(second, torch.tensor(1.0), at, end).item() == pytest.approx(wanted)


def test_the_target_leads_where_the_teacher_arrives() -> None:
    at, middle, to = (_level(angle) for angle in _ANGLES)
    noisy = _latents(1)
    reached = ddim_step(ddim_step(noisy, noisy * 0.4, at, middle), noisy * 0.7, middle, to)
    target = clean_that_reaches(reached, noisy, at, to)
    torch.testing.assert_close(ddim_step(noisy, target, at, to), reached)


def test_steps_agree_with_diffusers() -> None:
    scheduler = DDIMScheduler(
        **_SCHEDULER, prediction_type="v_prediction", rescale_betas_zero_snr=True
    )
    schedule = NoiseSchedule(scheduler)
    # Ten steps divide the schedule evenly, so that diffusers steps from one visited timestep to the
    # next; uneven counts differ by a timestep's rounding.
    visited = schedule.served_timesteps(10)
    noisy, output = _latents(1), _latents(1, seed=1)
    for start, end in itertools.pairwise(visited):
        at, to = schedule.level(start[None]), schedule.level(end[None])
        ours = ddim_step(noisy, schedule.clean(output, noisy, at), at, to)
        theirs = scheduler.step(output, start, noisy).prev_sample
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon", "sample"])
def test_a_true_output_is_read_as_the_clean_latents(prediction_type: str) -> None:
    schedule = _schedule(prediction_type)
    clean, noise, timesteps = _latents(), _latents(seed=1), torch.tensor([10, 300, 700, 990])
    at = schedule.level(timesteps)
    outputs = {
        "v_prediction": at.alpha * noise - at.sigma * clean,
        "epsilon": noise,
        "sample": clean,
    }
    found = schedule.clean(outputs[prediction_type], noised(clean, noise, at), at)
    torch.testing.assert_close(found, clean, rtol=1e-3, atol=1e-4)


def test_an_unknown_prediction_type_is_refused() -> None:
    schedule = _schedule()
    schedule.prediction_type = "score"
    with pytest.raises(ValueError, match="score"):
        schedule.clean(_latents(), _latents(), _level(1.0))


def test_the_schedule_ends_clean_and_starts_in_pure_noise() -> None:
    schedule = _schedule()
    end, start = schedule.level(torch.tensor([CLEAN])), schedule.level(torch.tensor([999]))
    assert (end.alpha.item(), end.sigma.item()) == (1.0, 0.0)
    assert start.alpha.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("count", "visited"), [(1, [999]), (2, [999, 499]), (3, [999, 666, 332])])
def test_served_timesteps_are_the_schedulers(count: int, visited: list[int]) -> None:
    assert _schedule().served_timesteps(count).tolist() == [*visited, CLEAN]


def test_weights_are_the_larger_of_both_errors() -> None:
    # Section 4: max(|x - x^|^2, |eps - eps^|^2), and |eps - eps^| = alpha / sigma |x - x^|.
    for angle in (0.2, 0.7, 0.9, 1.5):
        level = _level(angle)
        ratio = (math.cos(angle) / math.sin(angle)) ** 2
        assert truncated_snr(level).item() == pytest.approx(max(ratio, 1.0), rel=1e-5)
    pure = NoiseLevel(torch.tensor(0.0), torch.tensor(1.0))
    assert truncated_snr(pure).item() == 1.0


@pytest.mark.parametrize("last", [False, True])
def test_a_student_with_its_teachers_steps_and_weights_answers_right(last: bool) -> None:
    schedule, unet = _schedule(), _LinearUNet()
    teacher = UnguidedDenoiser(unet, schedule)
    lesson = ProgressiveLesson(Stage(8, 8, guided=False, last=last), schedule, teacher)
    question = lesson.question(_latents(), _conditions(), torch.Generator().manual_seed(0))
    wanted = lesson.answer(question)
    answered = teacher(question.noisy, question.start, question.conditions)
    assert lesson.loss(answered, wanted, question).item() == 0.0


def test_an_answer_of_two_steps_is_that_of_stepping_by_hand() -> None:
    schedule = _schedule()
    teacher = UnguidedDenoiser(_LinearUNet(), schedule)
    lesson = ProgressiveLesson(Stage(6, 3, guided=False, last=True), schedule, teacher)
    noisy, rows = _latents(3), _conditions(3)
    start, end = torch.tensor([999, 666, 332]), torch.tensor([666, 332, CLEAN])
    middle = torch.tensor([833, 499, 166])
    by_hand = noisy
    for a, b in ((start, middle), (middle, end)):
        clean = teacher(by_hand, a, rows)
        by_hand = ddim_step(by_hand, clean, schedule.level(a), schedule.level(b))
    answer = lesson.answer(Question(noisy, start, end, rows))
    reached = ddim_step(noisy, answer, schedule.level(start), schedule.level(end))
    torch.testing.assert_close(reached, by_hand, rtol=1e-4, atol=1e-4)


def test_consistency_asks_for_the_next_answer_and_at_the_end_for_the_teachers() -> None:
    schedule = _schedule()
    teacher = UnguidedDenoiser(_LinearUNet(), schedule)
    student = UnguidedDenoiser(_HalvingUNet(), schedule)
    lesson = ConsistencyLesson(Stage(4, 2, guided=True), schedule, teacher, student)
    noisy, rows = _latents(2), _conditions(2)
    start, end = torch.tensor([749, 249]), torch.tensor([499, CLEAN])
    reached = ddim_step(
        noisy, teacher(noisy, start, rows), schedule.level(start), schedule.level(end)
    )
    answer = lesson.answer(Question(noisy, start, end, rows))
    later = student(reached[:1], end[:1], _conditions(1))
    torch.testing.assert_close(answer[:1], later)
    torch.testing.assert_close(answer[1:], reached[1:])
    question = lesson.question(_latents(64), _conditions(64), torch.Generator().manual_seed(0))
    assert set(question.start.tolist()) == {999, 749, 499, 249}
    assert set(question.end.tolist()) == {749, 499, 249, CLEAN}


class _HalvingUNet(torch.nn.Module):
    def forward(self, noisy: Tensor, timesteps: Tensor, contexts: Tensor) -> _Output:
        return _Output(noisy / 2)


def test_guidance_is_ho_and_salimans() -> None:
    schedule, unet = _schedule(), _LinearUNet()
    noisy, timesteps = _latents(2), torch.tensor([800, 200])
    rows = Conditions(torch.ones(2, 2, 5), torch.zeros(1, 2, 5))
    without = unet(noisy, timesteps, rows.empty.expand(2, -1, -1)).sample
    prompted = unet(noisy, timesteps, rows.prompts).sample
    wanted = schedule.clean(without + 5.0 * (prompted - without), noisy, schedule.level(timesteps))
    # The toy's context enters by its mean over the whole batch, so each row goes alone.
    for row in range(2):
        one = Conditions(rows.prompts[row : row + 1], rows.empty)
        teacher = GuidedDenoiser(_RowwiseUNet(unet), schedule, 5.0)
        found = teacher(noisy[row : row + 1], timesteps[row : row + 1], one)
        torch.testing.assert_close(found, wanted[row : row + 1])


class _RowwiseUNet(torch.nn.Module):
    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self._unet = unet

    def forward(self, noisy: Tensor, timesteps: Tensor, contexts: Tensor) -> _Output:
        rows = zip(noisy.split(1), timesteps.split(1), contexts.split(1), strict=True)
        return _Output(torch.cat([self._unet(*row).sample for row in rows]))


@pytest.mark.parametrize("step_count", [3, 18, 35])
def test_questions_lie_where_they_should(step_count: int) -> None:
    schedule = _schedule()
    random = torch.Generator().manual_seed(1)
    for last in (False, True):
        stage = Stage(2 * step_count, step_count, guided=False, last=last)
        lesson = ProgressiveLesson(stage, schedule, UnguidedDenoiser(_LinearUNet(), schedule))
        question = lesson.question(_latents(64), _conditions(64), random)
        assert (question.start > question.end).all()
        assert question.end.min() >= CLEAN
        served = set(schedule.served_timesteps(step_count).tolist())
        if last:
            assert set(question.start.tolist()) | set(question.end.tolist()) <= served
        else:
            # Sampling starts in pure noise every time: one question in `step_count` does too.
            share = (question.start == 999).float().mean().item()
            assert share == pytest.approx(1 / (step_count + 1), abs=2 / 64)


def test_every_answer_is_finite_where_the_schedule_does_not_end_clean() -> None:
    # Stable Diffusion 1.5: epsilon, and an end that is as noisy as timestep 0.
    scheduler = DDIMScheduler(**{**_SCHEDULER, "set_alpha_to_one": False})
    schedule = NoiseSchedule(scheduler)
    lesson = ProgressiveLesson(
        Stage(36, 18, guided=False), schedule, UnguidedDenoiser(_LinearUNet(), schedule)
    )
    question = lesson.question(_latents(512), _conditions(512), torch.Generator().manual_seed(0))
    assert lesson.answer(question).isfinite().all()


def test_substeps_share_a_span_evenly() -> None:
    path = substeps(torch.tensor([999, 332]), torch.tensor([666, CLEAN]), 3)
    assert [p.tolist() for p in path] == [[999, 332], [888, 221], [777, 110], [666, CLEAN]]


def test_progressions() -> None:
    assert halvings(35, 3) == (35, 18, 9, 5, 3)
    assert halvings(3, 3) == (3,)
    assert checked(PRESETS["talk"]) == (70, 35, 15, 3)
    for bad in ((3, 5), (4, 4), (2, 0), ()):
        with pytest.raises(ValueError, match="must fall"):
            checked(bad)


def test_stages_of_the_talk() -> None:
    found = stages(PRESETS["talk"], low_rank=True)
    assert [stage.name for stage in found] == [
        *("70-guided", "70-to-35", "35-to-15", "15-to-3"),
        "3-low-rank",
    ]
    assert [stage.teacher_steps_per_step for stage in found] == [1, 2, 3, 5, 5]
    assert [stage.last for stage in found] == [False, False, False, True, True]
    assert [stage.guided for stage in found] == [True, False, False, False, False]
