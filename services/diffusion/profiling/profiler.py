"""All measurements of a profile, one after the other, with a bar for each kind."""

import datetime
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.progress import Progress

from ...runtime.engines.loading import load_engine
from ...runtime.models.folder import ModelFolder
from ...runtime.models.profile import (
    ModelProfile,
    PairProfile,
    StageName,
    StepProfile,
    shape_digest,
)
from ...runtime.models.sampling import load_tables
from .pair_times import measure_alone, measure_pairs
from .stage_calls import make_calls
from .stage_processes import STAGES, Placement, running_stages
from .step_times import measure_steps, pinned

_PACKAGES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "torch": "torch",
    "tensorrt": "tensorrt-cu13",
    "tensorrt_rtx": "tensorrt-rtx",
    "triton_server": "tritonclient",
}


@dataclass(frozen=True, slots=True)
class Profiling:
    """What to measure.

    Attributes:
        folder: the model.
        backend: engine backend.
        cache_dir: where built engines lie.
        core: core that all run on; None lets the system choose.
        sizes_px: heights and widths of pictures, the model's own first.
        row_counts: numbers of rows of a step.
        round_count: steps of each.
        duration_s: time for each stage and each pair.
        with_pairs: whether pairs of stages are measured.
    """

    folder: ModelFolder
    backend: str
    cache_dir: Path
    core: int | None
    sizes_px: tuple[tuple[int, int], ...]
    row_counts: tuple[int, ...]
    round_count: int
    duration_s: float
    with_pairs: bool


def profile_model(plan: Profiling, bars: Progress) -> ModelProfile:
    """Returns what was measured.

    Raises:
        MeshError: the model is not built for the backend, or a call failed.
        CannotProfile: a stage does not start.
    """
    steps = _measure_steps(plan, bars)
    stages, pairs = _measure_stages(plan, bars)
    return ModelProfile(
        backend=plan.backend,
        shape_digest=shape_digest(plan.folder),
        machine=_machine(plan.core),
        versions=_versions(plan.backend),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        steps=steps,
        stages={**stages, "diffusion": steps[0].step_seconds(1)},
        pairs=pairs,
    )


def _measure_steps(plan: Profiling, bars: Progress) -> tuple[StepProfile, ...]:
    total = len(plan.sizes_px) * len(plan.row_counts) * (plan.round_count + 1)
    bar = bars.add_task("steps of the UNet", total=total)
    with pinned(plan.core):
        engine = load_engine(plan.folder, "unet", backend=plan.backend, cache=plan.cache_dir)
        try:
            return tuple(
                measure_steps(
                    engine,
                    plan.folder,
                    size_px,
                    plan.row_counts,
                    round_count=plan.round_count,
                    on_step=lambda: bars.advance(bar),
                )
                for size_px in plan.sizes_px
            )
        finally:
            engine.close()


def _measure_stages(
    plan: Profiling, bars: Progress
) -> tuple[dict[StageName, float], tuple[PairProfile, ...]]:
    placement = Placement(plan.folder.path, plan.backend, plan.cache_dir, plan.core)
    scheduler = load_tables(plan.folder, plan.cache_dir).names[0]
    pair_count = len(STAGES) * (len(STAGES) - 1) // 2 if plan.with_pairs else 0
    starting = bars.add_task("starting the stages", total=1)
    with running_stages(placement) as channels:
        calls = make_calls(plan.folder, scheduler, channels)
        bars.advance(starting)
        alone: dict[StageName, float] = {}
        bar = bars.add_task("stages alone", total=len(calls))
        for stage, call in calls.items():
            alone[stage] = measure_alone(call, plan.duration_s)
            bars.advance(bar)
        bar = bars.add_task("stages together", total=pair_count)
        pairs: list[PairProfile] = []
        for pair in measure_pairs(calls, alone, plan.duration_s) if plan.with_pairs else ():
            pairs.append(pair)
            bars.advance(bar)
    return alone, tuple(pairs)


def _machine(core: int | None) -> str:
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return cpu if core is None else f"one core of {cpu}"


def _versions(backend: str) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("sangsang", "numpy", _PACKAGES.get(backend, backend)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
