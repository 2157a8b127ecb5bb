"""The maths of distillation against hand-computed values, the papers' equations and diffusers."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from sangsang.services.diffusion.distillation.lessons import (
    ConsistencyLesson,
    PathLesson,
    ProgressiveLesson,
    Question,
)
from sangsang.services.diffusion.distillation.networks import (
    Conditions,
    Denoiser,
    GuidedDenoiser,
    UnguidedDenoiser,
)
from sangsang.services.diffusion.distillation.paths import (
    PathSolver,
    Pieces,
    TeacherPaths,
    read_pieces,
)
from sangsang.services.diffusion.distillation.progression import (
    PRESETS,
    Stage,
    checked,
    halvings,
    stages,
)
from sangsang.services.diffusion.distillation.studies import Studies
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

# diffusers' schedulers do what newer numpys deprecate.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

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


def _embed(prompts: list[str]) -> Conditions:
    # What a prompt says is its length: enough to tell prompts apart.
    lengths = torch.tensor([float(len(prompt)) for prompt in prompts])
    return Conditions(lengths.view(-1, 1, 1).expand(-1, 2, 5), torch.zeros(1, 2, 5))


_NO_STUDIES = Studies(torch.zeros(0, 2, 3, 3), [])


def _progressive(stage: Stage, schedule: NoiseSchedule, teacher: Denoiser) -> ProgressiveLesson:
    return ProgressiveLesson(stage, schedule, teacher, _NO_STUDIES, _embed)


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
    lesson = _progressive(Stage(8, 8, guided=False, last=last), schedule, teacher)
    question = lesson.question(_latents(), _conditions(), torch.Generator().manual_seed(0))
    wanted = lesson.answer(question)
    answered = teacher(question.noisy, question.start, question.conditions)
    assert lesson.loss(answered, wanted, question).item() == 0.0


def test_an_answer_of_two_steps_is_that_of_stepping_by_hand() -> None:
    schedule = _schedule()
    teacher = UnguidedDenoiser(_LinearUNet(), schedule)
    lesson = _progressive(Stage(6, 3, guided=False, last=True), schedule, teacher)
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
    lesson = ConsistencyLesson(
        Stage(4, 2, guided=True), schedule, teacher, _NO_STUDIES, _embed, student
    )
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


def _solve(paths: TeacherPaths, folder: Path, schedule: NoiseSchedule) -> Pieces:
    scheduler = DDIMScheduler(
        **_SCHEDULER, prediction_type="v_prediction", rescale_betas_zero_snr=True
    )
    teacher = UnguidedDenoiser(_RowwiseUNet(_LinearUNet()), schedule)
    solver = PathSolver(teacher, schedule, scheduler.config, _embed, (2, 3, 3))
    solver.solve(paths, folder, range(paths.file_count), lambda done, total: None)
    return read_pieces(paths, folder)


def test_pieces_of_a_path_follow_one_another_to_the_picture_a_pipeline_draws(
    tmp_path: Path,
) -> None:
    schedule, paths = _schedule(), TeacherPaths(("a", "bcd"), 2, 3, 2)
    pieces = _solve(paths, tmp_path, schedule)
    # For each prompt: three from pure noise, two from the second timestep on, one from the third.
    assert sorted(zip(pieces.row.tolist(), pieces.step.tolist(), strict=True)) == [
        *((0, 0), (0, 1), (0, 1), (0, 2), (0, 2), (0, 2)),
        *((1, 0), (1, 1), (1, 1), (1, 2), (1, 2), (1, 2)),
    ]
    whole = [(pieces.row == 1) & (pieces.step == step) for step in range(3)]
    for before, after in itertools.pairwise(whole):
        assert torch.equal(pieces.reached[before][0], pieces.noisy[after][0])
    # The same six steps as diffusers takes them with its own reading of the network's output.
    config = {k: v for k, v in _SCHEDULER.items() if k not in ("clip_sample", "set_alpha_to_one")}
    solver = DPMSolverMultistepScheduler(
        **config, prediction_type="v_prediction", rescale_betas_zero_snr=True
    )
    solver.set_timesteps(6)
    latents, contexts = pieces.noisy[whole[0]].float(), _embed(["bcd"]).prompts
    for timestep in solver.timesteps:
        output = _LinearUNet()(latents, timestep[None], contexts).sample
        latents = solver.step(output, timestep, latents).prev_sample
    torch.testing.assert_close(pieces.reached[whole[2]][:1].float(), latents, rtol=5e-3, atol=5e-3)


def test_a_later_path_begins_at_the_picture_noised_again(tmp_path: Path) -> None:
    schedule = _schedule()
    pieces = _solve(TeacherPaths(("a",), 16, 2, 4), tmp_path, schedule)
    ends = pieces.reached[pieces.step == 1]
    first, again = pieces.noisy[pieces.step == 1].split(16)
    assert not torch.equal(first, again)
    at = schedule.level(torch.tensor([499]))
    noise = (again.float() - at.alpha * ends[:16].float()) / at.sigma
    assert noise.mean().item() == pytest.approx(0.0, abs=0.2)
    assert noise.std().item() == pytest.approx(1.0, abs=0.15)


def test_pieces_ask_where_a_step_leads(tmp_path: Path) -> None:
    schedule, paths = _schedule(), TeacherPaths(("a", "bcd", "e"), 40, 3, 2)
    pieces = _solve(paths, tmp_path, schedule)
    stage = Stage(6, 3, guided=True, method="paths", last=True)
    lesson = PathLesson(stage, schedule, pieces, paths.prompt, _embed)
    question, wanted = lesson.ask(48, torch.Generator().manual_seed(0))
    # Each step as often, though later ones have more pieces.
    assert [(question.start == t).sum().item() for t in (999, 666, 332)] == [16, 16, 16]
    reached = ddim_step(
        question.noisy, wanted, schedule.level(question.start), schedule.level(question.end)
    )
    for row in range(48):
        near = (pieces.noisy.float() - question.noisy[row]).abs().amax((1, 2, 3)) == 0
        piece = int(near.nonzero()[0])
        torch.testing.assert_close(
            reached[row], pieces.reached[piece].float(), rtol=1e-3, atol=1e-3
        )
        prompt = paths.prompt(int(pieces.row[piece]))
        assert question.conditions.prompts[row, 0, 0].item() == len(prompt)


def test_now_and_then_a_path_has_no_prompt() -> None:
    prompts = [TeacherPaths(("a", "b"), 64, 3, 2).prompt(row) for row in range(64)]
    assert prompts.count("") == 2


def test_solved_files_are_kept(tmp_path: Path) -> None:
    schedule, paths = _schedule(), TeacherPaths(("a",), 20, 2, 2)
    _solve(paths, tmp_path, schedule)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert len(before) == 2
    _solve(paths, tmp_path, schedule)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == before


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
        lesson = _progressive(stage, schedule, UnguidedDenoiser(_LinearUNet(), schedule))
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
    lesson = _progressive(
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
