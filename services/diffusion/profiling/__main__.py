"""`sangsang profile`: measures a model on this machine and writes `profile.json` beside it."""

import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...runtime.engines.cache import DEFAULT_CACHE_PATH
from ...runtime.engines.loading import BACKENDS
from ...runtime.errors import MeshError
from ...runtime.models.folder import ModelFolder
from ...runtime.models.profile import ModelProfile
from ...runtime.tool_main import run_tool
from .failures import CannotProfile
from .profiler import Profiling, profile_model
from .report import print_profile

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
out, err = Console(), Console(stderr=True)
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
# What runs on the CPU is pinned to a core; a GPU's stages are not.
_ON_CPU = ("onnxruntime", "openvino")


@app.command()
def profile(
    model_folder: Annotated[Path, typer.Argument(help="The model, a diffusers folder, built.")],
    size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WIDTHxHEIGHT",
            help="One more size of pictures in px, beside the model's own. May be repeated.",
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Most rows of a step to measure.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Steps of each number of rows.")] = 15,
    seconds: Annotated[
        float, typer.Option(min=0.05, help="Seconds for each stage and each pair of stages.")
    ] = 2.0,
    pairs: Annotated[bool, typer.Option(help="Measure what pairs of stages do.")] = True,
    backend: Annotated[
        str, typer.Option(help=f"Engine backend: {', '.join(BACKENDS)}.")
    ] = "onnxruntime",
    core: Annotated[
        int | None,
        typer.Option(min=0, help="Core to run on, with a backend of the CPU. Default: the last."),
    ] = None,
    cache_dir: Annotated[Path, typer.Option(help="Where built engines lie.")] = DEFAULT_CACHE_PATH,
    output: Annotated[
        Path | None,
        typer.Option(help="Where the picture goes.", show_default="build/profile/MODEL.png"),
    ] = None,
) -> None:
    """Measures how long a model's stages take on this machine, and writes profile.json beside it.

    The steps of the UNet by rows, a call of each stage, and what each two stages do to each other
    when both run on one device: on the CPU, one core. Schedulers read it: how many rows pay in a
    step, how much a step costs, which stages had better not run at once. Let the machine be quiet.
    """
    folder = ModelFolder.open(model_folder)
    plan = Profiling(
        folder=folder,
        backend=backend,
        cache_dir=cache_dir.expanduser(),
        core=_core(core) if backend in _ON_CPU else None,
        sizes_px=_sizes(folder, size or []),
        row_counts=tuple(range(1, rows + 1)),
        round_count=rounds,
        duration_s=seconds,
        with_pairs=pairs,
    )
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=err) as bars:
        measured = profile_model(plan, bars)
    print_profile(measured, out)
    out.print(f"written to {measured.write(folder)}", highlight=False)
    _draw(measured, folder, output or Path("build/profile") / f"{folder.model_id}.png")


def _core(wanted: int | None) -> int | None:
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    if wanted is not None and wanted not in allowed:
        raise CannotProfile(f"core {wanted} is not one of {', '.join(map(str, allowed))}")
    return allowed[-1] if wanted is None else wanted


def _sizes(folder: ModelFolder, texts: list[str]) -> tuple[tuple[int, int], ...]:
    """Returns heights and widths, the model's own first, none twice."""
    sizes = {(folder.default_height_px, folder.default_width_px): None}
    multiple = folder.size_multiple_px
    for text in texts:
        match = _SIZE.fullmatch(text)
        sides = (int(match[2]), int(match[1])) if match else (0, 0)
        if any(side < multiple or side % multiple for side in sides):
            raise CannotProfile(f"{text} is not WIDTHxHEIGHT in multiples of {multiple} px")
        sizes[sides] = None
    return tuple(sizes)


def _draw(measured: ModelProfile, folder: ModelFolder, path: Path) -> None:
    try:
        from .figure import draw_profile
    except ImportError as error:
        err.print(f"no picture: it needs {error.name}", highlight=False)
        return
    draw_profile(measured, f"{folder.model_id}, {measured.backend}, {measured.machine}", path)
    out.print(f"the picture is {path}", highlight=False)


if __name__ == "__main__":
    sys.exit(run_tool(app, "sangsang profile", (MeshError, CannotProfile)))
