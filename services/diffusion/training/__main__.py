"""`python -m sangsang.services.diffusion.training`: retrain pocket, judge it, draw its figures."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from . import recipe
from .card import write_figures
from .evaluation import evaluate as evaluate_folder

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console()

FolderArgument = Annotated[
    Path, typer.Argument(help="The model folder, e.g. deploy/models/pocket.")
]
WorkOption = Annotated[
    Path, typer.Option(help="Downloads, pictures and checkpoints; training resumes from here.")
]
WorkersOption = Annotated[
    int, typer.Option(min=1, help="Single-threaded processes that train; about one per free core.")
]


@app.command()
def train(
    folder: FolderArgument,
    work: WorkOption = Path("build/training"),
    workers: WorkersOption = 3,
    autoencoder_minutes: Annotated[float, typer.Option(help="Budget of the autoencoder.")] = 20,
    unet_minutes: Annotated[float, typer.Option(help="Budget of UNet and text encoder.")] = 70,
    decoder_minutes: Annotated[float, typer.Option(help="Budget of the decoder's last leg.")] = 8,
    text_updates: Annotated[int, typer.Option(help="Updates in which prompts get names.")] = 1500,
    compositions: Annotated[int, typer.Option(help="Pictures to learn from.")] = 98_304,
) -> None:
    """Train pocket from scratch into FOLDER, or carry on where an earlier run stopped."""
    torch.set_num_threads(1)
    budgets = recipe.Budgets(autoencoder_minutes, text_updates, unet_minutes, decoder_minutes)
    recipe.Recipe(work, workers, budgets, compositions, console).run(folder)


@app.command()
def evaluate(
    folder: FolderArgument,
    work: WorkOption = Path("build/training"),
    workers: WorkersOption = 3,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 35,
    guidance: Annotated[float, typer.Option(help="Guidance scale.")] = 5.0,
) -> None:
    """Ask FOLDER for every concept and write how often the right one is recognised."""
    torch.set_num_threads(1)
    pool, concepts = recipe.real_pictures(work)
    evaluate_folder(folder, work, concepts, pool, workers, steps, guidance, console)


@app.command()
def figures(folder: FolderArgument, work: WorkOption = Path("build/training")) -> None:
    """Draw the model card's loss curve and sample grid into FOLDER/pictures."""
    write_figures(folder, work)


if __name__ == "__main__":
    app()
