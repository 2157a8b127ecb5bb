"""`python -m sangsang.services.diffusion.training`: retrain pocket, draw what it is judged by."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from . import recipe
from .card import write_figures
from .concepts import read_concepts
from .evaluation import write_pictures
from .pictures import ARTWORK_PACKAGE, NAMES_PACKAGE, fetch, load_artwork
from .recipe import prompts_of

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
    unet_minutes: Annotated[float, typer.Option(help="Budget of the UNet.")] = 160,
    decoder_minutes: Annotated[float, typer.Option(help="Budget of the decoder's last leg.")] = 8,
    text_updates: Annotated[int, typer.Option(help="Updates in which prompts get names.")] = 1500,
    compositions: Annotated[int, typer.Option(help="Pictures to learn from.")] = 98_304,
) -> None:
    """Train pocket from scratch into FOLDER, or carry on where an earlier run stopped."""
    torch.set_num_threads(1)
    budgets = recipe.Budgets(autoencoder_minutes, text_updates, unet_minutes, decoder_minutes)
    recipe.Recipe(work, workers, budgets, compositions, console).run(folder)


@app.command()
def pictures(
    folder: Annotated[Path, typer.Argument(help="Where to, e.g. build/pictures/pocket.")],
    work: WorkOption = Path("build/training"),
    count: Annotated[int, typer.Option(min=4, help="Pictures of each concept.")] = 64,
) -> None:
    """Write the real pictures that `sangsang evaluate` judges pocket by into FOLDER."""
    concepts = read_concepts(fetch(NAMES_PACKAGE, work))
    artwork = load_artwork(fetch(ARTWORK_PACKAGE, work), concepts)
    with Progress(console=console) as bars:
        task = bars.add_task("pictures", total=len(concepts))
        write_pictures(
            folder, concepts, artwork, count, lambda done: bars.update(task, completed=done)
        )
    console.print(f"wrote {len(concepts)} times {count} pictures to {folder}", highlight=False)


@app.command()
def prompts(
    file: Annotated[Path, typer.Argument(help="Where to, e.g. build/prompts/pocket.txt.")],
    work: WorkOption = Path("build/training"),
    rounds: Annotated[int, typer.Option(min=1, help="Prompts for each concept.")] = 24,
) -> None:
    """Write the prompts that pocket's student is distilled on into FILE, one a line."""
    concepts = read_concepts(fetch(NAMES_PACKAGE, work))
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = prompts_of(concepts, rounds)
    file.write_text("\n".join(lines) + "\n", "utf-8")
    console.print(f"wrote {len(lines)} prompts to {file}", highlight=False)


@app.command()
def figures(folder: FolderArgument, work: WorkOption = Path("build/training")) -> None:
    """Draw the model card's loss curve and sample grid into FOLDER/pictures."""
    write_figures(folder, work)


if __name__ == "__main__":
    app()
