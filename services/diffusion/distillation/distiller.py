"""A distillation from beginning to end: what to learn on, then one stage after another.

Everything is kept in one work folder as it is made; started again, a run goes on where it was.
"""

# diffusers and transformers annotate loosely: `tuple[str]` for any tuple, outputs as bare tuples.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportReturnType=false
# pyright: reportCallIssue=false

import copy
import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from .display import Display
from .failures import CannotDistil
from .journal import Journal, LogLine
from .lessons import ConsistencyLesson, Lesson, PathLesson, ProgressiveLesson
from .low_rank import add_adapter, factor, matrices, save_adapter
from .networks import Denoiser, UnguidedDenoiser
from .offering import Offer, enter
from .paths import PathSolver, Pieces, TeacherPaths, read_pieces
from .progression import Method, Stage, stages
from .studies import (
    Studies,
    TeacherSampling,
    captions,
    draw_latents,
    from_pictures,
    read_drawn,
)
from .subject import Subject
from .trainer import StageTrainer, Standing, TrainingSettings
from .trajectory import NoiseSchedule

# Serving that starts this far below pure noise does not show a student what it is given.
_LOWEST_START = 0.9
_TEACHER_SAMPLING_STEPS = 20
_SAMPLE_COUNT = 16
_LAST_STAGE_SHARE = 2
_LONGEST_WAIT = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class DistillationPlan:
    """What to distil, into what, and how.

    Attributes:
        model: a diffusers Stable Diffusion folder.
        step_counts: from the teacher's to the student's, falling.
        method: progressive halving, or the teacher's paths or latent consistency in one stage.
        guidance_scale: of the teacher; the student's pictures have it built in.
        name: of the student's weights in the model folder.
        rank: of the low-rank student; 0 makes none.
        keeps_full: whether the full student goes into the model folder beside a low-rank one.
        tier: that gets the student; None changes no tier.
        pictures: an image folder to learn on; None learns on what the teacher draws.
        prompts: what the teacher draws; not used with pictures.
        latent_count: how many latents it draws, or for how many prompts it solves paths.
        training: of one stage; the last full student gets twice the updates.
        mixed_precision: `no`, `bf16` or `fp16`.
        work: where everything is kept.
    """

    model: Path
    step_counts: tuple[int, ...]
    method: Method
    guidance_scale: float
    name: str
    rank: int
    keeps_full: bool
    tier: str | None
    pictures: Path | None
    prompts: tuple[str, ...]
    latent_count: int
    training: TrainingSettings
    mixed_precision: str
    work: Path


@dataclass(frozen=True, slots=True)
class Students:
    """What came out.

    Attributes:
        unet: folder of the full student in the model folder; None if it is not kept there.
        adapter: folder of the low-rank student; None if none was asked for.
        held_energy: share of the difference that the rank holds before it is taught again; None
            where that was done before.
    """

    unet: Path | None
    adapter: Path | None
    held_energy: float | None


def check(plan: DistillationPlan) -> None:
    """Makes sure that a plan can be run, and notes it in its work folder.

    Raises:
        CannotDistil: the work folder holds a run with other options, or serving would not start
            from pure noise.
    """
    scheduler = DDIMScheduler.from_pretrained(plan.model, subfolder="scheduler")
    _check_start(NoiseSchedule(scheduler), plan.step_counts[-1])
    plan.work.mkdir(parents=True, exist_ok=True)
    _check_same(plan)


class Distillation:
    """Runs a plan.

    Args:
        plan: what to do; `check` it first.
        display: shows progress.
    """

    def __init__(self, plan: DistillationPlan, display: Display) -> None:
        self._plan, self._display = plan, display
        self._accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision=plan.mixed_precision,
            # While one process draws samples, the others wait longer than for any gradient.
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_LONGEST_WAIT)],
        )
        self._journal = Journal(plan.work)
        self._subject = Subject(plan.model, self._accelerator.device)
        self._schedule = self._subject.schedule
        self._held_energy: float | None = None

    def run(self) -> Students:
        """Returns the students, written into the model folder.

        Raises:
            CannotDistil: another run is at work in the same folder.
        """
        with _alone(self._plan.work) if self._accelerator.is_main_process else nullcontext():
            return self._run()

    def _run(self) -> Students:
        material = self._material()
        todo = stages(
            self._plan.step_counts, low_rank=self._plan.rank > 0, method=self._plan.method
        )
        teacher = before = original = self._subject.unet
        for number, stage in enumerate(todo):
            if stage.weights == "low_rank":
                # Taught by the same teacher as the full student whose delta it is.
                student = self._low_rank_student(stage, before)
            else:
                teacher, student = before, copy.deepcopy(before)
            self._run_stage(number, stage, original if stage.guided else teacher, student, material)
            before = student
        return self._publish(todo)

    def _material(self) -> Studies | Pieces:
        if self._plan.method == "paths":
            with self._display.counting("paths") as report:
                return self._solved(report)
        with self._display.counting("latents") as report:
            if self._plan.pictures is not None:
                return self._encoded(self._plan.pictures, report)
            return self._drawn(report)

    def _solved(self, report: Callable[[int, int], None]) -> Pieces:
        subject, paths = self._subject, self._paths()
        teacher = subject.guided(self._plan.guidance_scale)
        solver = PathSolver(
            *(teacher, subject.schedule, subject.scheduler.config),
            *(subject.embed, subject.latent_shape()),
        )
        folder = self._plan.work / "paths"
        with self._accelerator.autocast():
            solver.solve(paths, folder, self._share(paths.file_count), report)
        self._accelerator.wait_for_everyone()
        return read_pieces(paths, folder)

    def _drawn(self, report: Callable[[int, int], None]) -> Studies:
        plan = self._plan
        sampling = TeacherSampling(
            plan.prompts, plan.latent_count, _TEACHER_SAMPLING_STEPS, plan.guidance_scale
        )
        folder = plan.work / "latents"
        share = self._share(sampling.file_count)
        with self._accelerator.autocast():
            draw_latents(self._subject.pipeline, sampling, folder, share, report)
        self._accelerator.wait_for_everyone()
        return read_drawn(sampling, folder)

    def _encoded(self, pictures: Path, report: Callable[[int, int], None]) -> Studies:
        pipeline = self._subject.pipeline
        side_px = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
        file = self._plan.work / "latents.safetensors"
        with self._accelerator.main_process_first():
            return from_pictures(pipeline, pictures, (side_px, side_px), file, report)

    def _paths(self) -> TeacherPaths:
        plan, student_steps = self._plan, self._plan.step_counts[-1]
        per_step = -(-plan.step_counts[0] // student_steps)
        return TeacherPaths(self._prompts(), plan.latent_count, student_steps, per_step)

    def _prompts(self) -> tuple[str, ...]:
        return self._plan.prompts if self._plan.pictures is None else captions(self._plan.pictures)

    def _share(self, file_count: int) -> range:
        accelerator = self._accelerator
        return range(accelerator.process_index, file_count, accelerator.num_processes)

    def _low_rank_student(self, stage: Stage, full: UNet2DConditionModel) -> UNet2DConditionModel:
        student = copy.deepcopy(self._subject.unet)
        add_adapter(student, self._plan.rank)
        if not self._learnt(stage).exists():
            self._held_energy = factor(student, full)
        return student

    def _run_stage(
        self,
        number: int,
        stage: Stage,
        teacher: UNet2DConditionModel,
        student: UNet2DConditionModel,
        material: Studies | Pieces,
    ) -> None:
        folder = self._plan.work / stage.name
        folder.mkdir(exist_ok=True)
        done = self._learnt(stage)
        _require_gradients(student, stage)
        if done.exists():
            _load_learnt(student, done)
            self._display.note(f"{stage.name}: done before")
            return
        teacher.requires_grad_(False).eval()
        denoiser = (
            self._subject.guided(self._plan.guidance_scale)
            if stage.guided
            else UnguidedDenoiser(teacher, self._schedule)
        )
        trainer = StageTrainer(
            self._accelerator,
            student,
            lambda learning: self._lesson(stage, denoiser, learning, material),
            self._schedule,
            _settings_of(stage, self._plan.training),
            number,
        )
        checkpoint = folder / "checkpoint.pt"
        with self._display.training(stage.name) as show:

            def report(standing: Standing) -> None:
                if self._accelerator.is_main_process:
                    self._journal.add(_line(stage, standing))
                    show(standing)

            trainer.resume(checkpoint)
            if self._accelerator.is_main_process:
                self._journal.rewind(stage.name, trainer.update)
            trainer.train(checkpoint, report)
        if self._accelerator.is_main_process:
            self._finish(stage, student, done)
            checkpoint.unlink(missing_ok=True)
        self._accelerator.free_memory()
        self._accelerator.wait_for_everyone()

    def _lesson(
        self, stage: Stage, teacher: Denoiser, student: Denoiser, material: Studies | Pieces
    ) -> Lesson:
        embed = self._subject.embed
        if isinstance(material, Pieces):
            return PathLesson(stage, self._schedule, material, self._paths().prompt, embed)
        if stage.method == "consistency":
            return ConsistencyLesson(stage, self._schedule, teacher, material, embed, student)
        return ProgressiveLesson(stage, self._schedule, teacher, material, embed)

    def _finish(self, stage: Stage, student: UNet2DConditionModel, done: Path) -> None:
        self._journal.plot()
        prompts = list(dict.fromkeys(self._prompts()))[:_SAMPLE_COUNT]
        pictures = self._subject.sampled(student, prompts, stage.student_step_count)
        title = f"{stage.name}: {stage.student_step_count} steps, unguided"
        self._journal.keep_samples(stage.name, pictures, title)
        learnt = {
            n: p.detach().contiguous() for n, p in student.named_parameters() if p.requires_grad
        }
        partial = done.with_suffix(".partial")
        save_file(learnt, partial)
        partial.rename(done)

    def _publish(self, todo: tuple[Stage, ...]) -> Students:
        plan = self._plan
        low_rank = plan.rank > 0
        adapter = plan.model / "adapters" / plan.name if low_rank else None
        unet = plan.model / f"{plan.name}_unet" if plan.keeps_full or not low_rank else None
        if self._accelerator.is_main_process:
            if adapter is not None:
                student = copy.deepcopy(self._subject.unet)
                add_adapter(student, plan.rank)
                _load_learnt(student, self._learnt(todo[-1]))
                save_adapter(student, adapter)
            if unet is not None:
                full = copy.deepcopy(self._subject.unet)
                _load_learnt(full, self._learnt(next(s for s in todo if _is_last_full(s))))
                full.half().save_pretrained(unet)
            enter(plan.model, _offer(plan, adapter, unet))
        return Students(unet, adapter, self._held_energy)

    def _learnt(self, stage: Stage) -> Path:
        return self._plan.work / stage.name / "student.safetensors"


def _is_last_full(stage: Stage) -> bool:
    return stage.last and stage.weights == "full"


def _offer(plan: DistillationPlan, adapter: Path | None, unet: Path | None) -> Offer:
    places = [None if p is None else str(p.relative_to(plan.model)) for p in (adapter, unet)]
    scheduler = "lcm" if plan.method == "consistency" else "ddim"
    return Offer(plan.name, places[0], places[1], plan.step_counts[-1], scheduler, plan.tier)


def _require_gradients(student: UNet2DConditionModel, stage: Stage) -> None:
    student.requires_grad_(False)
    if stage.weights == "low_rank":
        for name, parameter in student.named_parameters():
            parameter.requires_grad_("lora_" in name)
        return
    for layer in matrices(student).values():
        layer.weight.requires_grad_(True)


@torch.no_grad()
def _load_learnt(student: UNet2DConditionModel, file: Path) -> None:
    parameters = dict(student.named_parameters())
    for name, tensor in load_file(file).items():
        parameters[name].copy_(tensor)


def _settings_of(stage: Stage, training: TrainingSettings) -> TrainingSettings:
    # The low-rank student starts from the full one's factors: it has less to learn.
    if not stage.last or stage.weights == "low_rank":
        return training
    return replace(training, update_count=training.update_count * _LAST_STAGE_SHARE)


def _line(stage: Stage, standing: Standing) -> LogLine:
    return LogLine(
        stage.name,
        standing.update,
        standing.loss,
        standing.learning_rate,
        standing.rows_per_s,
        standing.elapsed_s,
    )


def _check_start(schedule: NoiseSchedule, step_count: int) -> None:
    first = int(schedule.served_timesteps(step_count)[0])
    if first < _LOWEST_START * schedule.train_step_count:
        raise CannotDistil(
            f"in {step_count} steps this model's scheduler starts at timestep {first} of "
            f"{schedule.train_step_count}, but serving starts from pure noise. Set "
            '"timestep_spacing": "trailing" in scheduler/scheduler_config.json'
        )


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotDistil(f"another distillation is at work in {work}") from None
        yield


def _check_same(plan: DistillationPlan) -> None:
    """Refuses to carry on a run with other options: its stages would not fit together."""
    said = {name: str(value) for name, value in asdict(plan).items() if name != "work"}
    path = plan.work / "plan.json"
    if path.exists():
        kept = json.loads(path.read_text("utf-8"))
        changed = [name for name in said if said[name] != kept.get(name)]
        if changed:
            raise CannotDistil(
                f"{plan.work} holds a distillation with other options ({', '.join(changed)}); "
                "repeat those, or take another --work folder"
            )
    path.write_text(json.dumps(said, indent=2) + "\n", "utf-8")
