"""What `sangsang generate` takes, with the words of its `--help`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class TierChoice(StrEnum):
    """Tiers by name."""

    free = "free"
    pro = "pro"


class FormatChoice(StrEnum):
    """Output formats by name."""

    png = "png"
    jpeg = "jpeg"
    webp = "webp"
    avif = "avif"


Prompt = Annotated[
    str, typer.Argument(help='What to draw, e.g. "a rocket on a yellow background".')
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="File to write; default: named after the prompt."),
]
ModelId = Annotated[str, typer.Option(help="Model; default: the only one of the mesh.")]
Negative = Annotated[str, typer.Option(help="What to steer away from.")]
Tier = Annotated[TierChoice | None, typer.Option(help="Default: the model's.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps; default: the tier's.")]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale; default: the tier's.")]
Scheduler = Annotated[str, typer.Option(help="Sampler by name; see `sangsang models`.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same picture; default: random.")]
Count = Annotated[int, typer.Option("--count", "-n", help="Pictures to make.")]
SidePx = Annotated[int | None, typer.Option(help="Pixels; default: the model's.")]
InitialImage = Annotated[Path | None, typer.Option(help="Picture to start from.")]
Strength = Annotated[float, typer.Option(help="How far to move away from --image, to 1.")]
FileFormat = Annotated[FormatChoice, typer.Option("--format", help="File format.")]
Quality = Annotated[int | None, typer.Option(help="1 to 100, for lossy formats.")]
Timeout = Annotated[float, typer.Option(help="Seconds that the request may take.")]
Local = Annotated[
    bool, typer.Option("--local", help="Start a mesh for this call and stop it afterwards.")
]
