"""`sangsang evaluate`: how good are a model's pictures, and what does each cost?"""

import os
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...runtime.engines.precisions import Precision, check_precision
from ...runtime.errors import MeshError
from ...runtime.models.folder import ModelFolder
from ...runtime.models.manifest import Manifest
from ...runtime.tool_main import run_tool
from .comparison import Plan, compare
from .configurations import (
    BadConfiguration,
    in_precisions,
    parse_configuration,
    read_configurations,
)
from .figure import draw_figure
from .real_pictures import BadPictures
from .report import FIGURE_NAME, print_report, write_report
from .results import Comparison
from .sampling import model_digest
from .weights import keep_libraries_quiet

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
out, err = Console(), Console(stderr=True)
_INTERRUPTED = 130


@app.command()
def evaluate(
    model_folder: Annotated[Path, typer.Argument(help="The model, a diffusers folder.")],
    pictures: Annotated[
        Path | None,
        typer.Option(
            help="Real pictures with names: an imagefolder with metadata.jsonl. "
            "Default: build/pictures/MODEL."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Where table, figure and JSON go. Default: MODEL_FOLDER/evaluation."),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(
            help="One more row, NAME=steps,guidance,scheduler,weights; the last three may be "
            "left out. May be repeated."
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help="Draw each tier also as a GPU's engine in f16, int8 or fp8 would, computed on "
            "the CPU. May be repeated."
        ),
    ] = None,
    questions: Annotated[
        int | None,
        typer.Option(min=1, help="Most questions of each group, for a quick look. Default: all."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Single-threaded processes that draw.")] = max(
        1, (os.cpu_count() or 1) // 2
    ),
    variety_prompts: Annotated[
        int, typer.Option(min=1, help="Prompts that are asked with several seeds.")
    ] = 32,
    variety_seeds: Annotated[int, typer.Option(min=2, help="How many seeds each.")] = 4,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="A row of the figure; may be repeated. Default: six, not picked."),
    ] = None,
    judge_side: Annotated[
        int, typer.Option(min=16, help="Width and height in px at which the judge sees pictures.")
    ] = 64,
    work: Annotated[
        Path, typer.Option(help="Keeps judges and drawn pictures; a rerun continues from here.")
    ] = Path("build/evaluation"),
) -> None:
    """Compares a model's tiers: are pictures right, varied, like real ones, and what do they cost?

    Draws the same prompts with the same seeds for each tier, for a control (the Pro weights with
    the Free step count), and for every --config.
    """
    torch.set_num_threads(1)
    keep_libraries_quiet()
    model = ModelFolder.open(model_folder)
    manifest = Manifest.read(model)
    # Such engines are TensorRT-RTX's; here nothing of it is needed.
    precisions: list[Precision] = [
        check_precision("tensorrt_rtx", name, ()) for name in precision or []
    ]
    added = [parse_configuration(text) for text in config or []]
    added += in_precisions(manifest, precisions)
    plan = Plan(
        folder=model_folder,
        pictures=pictures or Path("build/pictures") / model.model_id,
        configurations=(*read_configurations(manifest), *added),
        work=work,
        workers=workers,
        question_limit=questions,
        variety_prompts=variety_prompts,
        variety_seeds=variety_seeds,
        figure_prompts=tuple(prompt or ()),
        judge_side_px=judge_side,
    )
    comparison = _compare(plan)
    folder = output or model_folder / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"model": model.model_id, "model_digest": model_digest(model)}
    write_report(comparison, facts, folder)
    draw_figure(comparison).save(folder / FIGURE_NAME, optimize=True)
    print_report(comparison, out)
    out.print(f"table, figure and JSON are in {folder}", highlight=False)


def _compare(plan: Plan) -> Comparison:
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn())
    try:
        with Progress(*columns, TimeRemainingColumn(), console=err) as bars:
            return compare(plan, bars)
    except KeyboardInterrupt:
        err.print("stopped; what was drawn is kept, and the same command goes on from there")
        raise typer.Exit(_INTERRUPTED) from None


if __name__ == "__main__":
    sys.exit(run_tool(app, "sangsang evaluate", (MeshError, BadPictures, BadConfiguration)))
