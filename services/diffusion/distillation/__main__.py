"""`python -m sangsang.services.diffusion.distillation`, which `sangsang distill` runs."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ...runtime.errors import MeshError
from ...runtime.models.folder import ModelFolder
from ...runtime.models.manifest import Manifest
from ...runtime.tool_main import run_tool
from .failures import CannotDistil
from .progression import PRESETS, checked, halvings


class Method(StrEnum):
    """Ways to distil."""

    PROGRESSIVE = "progressive"
    PATHS = "paths"
    CONSISTENCY = "consistency"


class Tier(StrEnum):
    """Tiers of a manifest."""

    FREE = "free"
    PRO = "pro"


# About twenty steps of DPM-Solver++ for three of the student: what Stable Diffusion is drawn with.
_SOLVED_STEPS_PER_STEP = 6

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def distill(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL_FOLDER", help="A diffusers Stable Diffusion folder."),
    ],
    to_steps: Annotated[int, typer.Option(min=1, help="Steps that the student needs.")] = 3,
    from_steps: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Steps of the teacher.",
            show_default="the pro tier's; with paths, 6 for each step of the student",
        ),
    ] = None,
    schedule: Annotated[
        str,
        typer.Option(
            help="Progressive: step counts on the way, e.g. 35,18,9,5,3; `halving` derives them; "
            "`talk` is 70,35,15,3."
        ),
    ] = "halving",
    method: Annotated[
        Method,
        typer.Option(
            help="Learn from the teacher's whole paths, solved once; by progressive halving; or by "
            "latent consistency."
        ),
    ] = Method.PATHS,
    guidance_scale: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            help="Guidance that the student has built in.",
            show_default="the pro tier's",
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="What the student's weights are called.")] = "student",
    rank: Annotated[
        int, typer.Option(min=0, help="Rank of the student's low-rank delta; 0 makes none.")
    ] = 32,
    full: Annotated[
        bool, typer.Option("--full", help="Keep the full student too, as a second UNet.")
    ] = False,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A text file, one prompt a line: the teacher draws what to learn on."),
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            help="Or an image folder with metadata.jsonl: learn on real pictures; with paths, on "
            "what they show."
        ),
    ] = None,
    latents: Annotated[
        int,
        typer.Option(min=1, help="How many the teacher draws; with paths, for how many prompts."),
    ] = 4096,
    updates: Annotated[
        int,
        typer.Option(
            min=1, help="Updates of each stage; the last full student gets twice as many."
        ),
    ] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of an update.")] = 36,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="At its peak.")] = 3e-4,
    mixed_precision: Annotated[str, typer.Option(help="no, bf16 or fp16.")] = "bf16",
    checkpoint_interval: Annotated[
        float, typer.Option(min=0.0, help="Seconds between checkpoints; a kill costs no more.")
    ] = 60.0,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Training processes.", show_default="GPUs, or all cores but one"),
    ] = None,
    tier: Annotated[
        Tier | None,
        typer.Option(
            help="Tier that takes the student from now on, in the folder's sangsang.json."
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Latents, checkpoints, log and plots; a run that was stopped goes on from here.",
            show_default="build/distillation/<folder's name>",
        ),
    ] = None,
) -> None:
    """Teach a student to do in TO_STEPS unguided passes what the guided model does in many.

    The student is written into the model folder as a low-rank adapter, which is served in one
    batch with its teacher, or as a second UNet, or as both. Progress, a CSV log, a loss plot and
    sample grids lie in the work folder. Stop it at any time; the same command goes on.
    """
    if prompts is None and pictures is None:
        raise typer.BadParameter("give --prompts FILE or --pictures FOLDER: something to learn on")
    # Heavy: not before the options are known to be good.
    from .display import Display
    from .distiller import Distillation, DistillationPlan, check
    from .trainer import TrainingSettings

    manifest = Manifest.read(ModelFolder.open(model))
    teacher = manifest.tiers.get("pro") or manifest.tiers[manifest.default_tier]
    if from_steps is None:
        solved = _SOLVED_STEPS_PER_STEP * to_steps
        from_steps = solved if method is Method.PATHS else teacher.step_count
    counts = _counts(schedule, from_steps, to_steps)
    plan = DistillationPlan(
        model=model,
        step_counts=counts,
        method=method.value,
        guidance_scale=guidance_scale or teacher.guidance_scale,
        name=name,
        rank=rank,
        keeps_full=full,
        tier=None if tier is None else tier.value,
        pictures=pictures,
        prompts=() if prompts is None else _lines(prompts),
        latent_count=latents,
        training=TrainingSettings(updates, batch_size, learning_rate, checkpoint_interval),
        mixed_precision=mixed_precision,
        work=work or Path("build/distillation") / model.resolve().name,
    )
    if not _is_worker():
        check(plan)
        _start_workers(workers)
    display = Display(quiet=os.environ.get("RANK", "0") != "0")
    students = Distillation(plan, display).run()
    if students.unet is not None:
        display.note(f"the student: {students.unet}")
    if students.adapter is not None:
        held = "" if students.held_energy is None else f" (held {students.held_energy:.1%})"
        display.note(f"as a low-rank delta: {students.adapter}{held}")


def _is_worker() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _start_workers(workers: int | None) -> None:
    """Becomes a launcher of so many processes; returns if one is enough."""
    import torch

    on_gpu = torch.cuda.is_available()
    count = workers or (torch.cuda.device_count() if on_gpu else max(1, (os.cpu_count() or 2) - 1))
    if count == 1:
        return
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command = [sys.executable, *launcher, "-m", str(__spec__.name).removesuffix(".__main__")]
    environment = dict(os.environ)
    if not on_gpu:
        # Several threads in each of several processes only get into each other's way.
        environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    os.execve(  # noqa: S606 our own interpreter
        sys.executable, [*command, *sys.argv[1:]], environment
    )


def _counts(schedule: str, from_steps: int, to_steps: int) -> tuple[int, ...]:
    try:
        if schedule == "halving":
            return halvings(from_steps, to_steps)
        if schedule in PRESETS:
            return PRESETS[schedule]
        return checked(tuple(int(part) for part in schedule.split(",")))
    except ValueError as exc:
        raise typer.BadParameter(f"--schedule {schedule}: {exc}") from exc


def _lines(path: Path) -> tuple[str, ...]:
    found = tuple(line.strip() for line in path.read_text("utf-8").splitlines() if line.strip())
    if not found:
        raise typer.BadParameter(f"{path} holds no prompts")
    return found


if __name__ == "__main__":
    sys.exit(run_tool(app, "sangsang distill", (CannotDistil, MeshError)))
