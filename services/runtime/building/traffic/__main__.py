"""`python -m sangsang.services.runtime.building.traffic`, which `sangsang traffic` runs."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ...errors import MeshError
from ...models.folder import ModelFolder
from ...tool_main import run_tool
from ..failures import ExportFailed
from .counting import count_traffic
from .figure import draw_traffic
from .networks import ARCHITECTURES, BadSize, Subject, architecture_size_px, of_folder, published
from .report import GPUS, notes, time_table, traffic_table

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
out, err = Console(), Console(stderr=True)


class Module(StrEnum):
    """Modules of a model."""

    TEXT_ENCODER = "text_encoder"
    VAE_ENCODER = "vae_encoder"
    UNET = "unet"
    VAE_DECODER = "vae_decoder"


class Precision(StrEnum):
    """Number formats, by their bytes."""

    FP16 = "fp16"
    FP32 = "fp32"


_BYTES = {Precision.FP16: 2, Precision.FP32: 4}


@app.command()
def traffic(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_FOLDER",
            help="A diffusers Stable Diffusion folder, or the name of a published UNet: "
            f"{', '.join(ARCHITECTURES)}. Weights are not read.",
        ),
    ],
    size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Width and height of the picture in px.", show_default="the model's own"
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Rows of an evaluation; a guided picture has two.")
    ] = 2,
    module: Annotated[Module, typer.Option(help="Which network of the folder.")] = Module.UNET,
    precision: Annotated[
        Precision, typer.Option(help="Of weights and what flows between.")
    ] = Precision.FP16,
    views: Annotated[
        bool,
        typer.Option(
            "--views",
            help="Split, Transpose and Slice move nothing, as torch's views. Default: they copy, "
            "as in a graph that runs node by node.",
        ),
    ] = False,
    bandwidth: Annotated[
        list[float] | None,
        typer.Option(
            min=1.0, help="GB/s of one more GPU, beside V100, A100 and H100. May be repeated."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Where the bar chart goes, a PNG.", show_default="build/traffic/NAME-SIZE.png"
        ),
    ] = None,
) -> None:
    """Counts the bytes that a network moves to and from a GPU's memory, by kind of operation.

    Three figures each: every node of the graph a kernel of its own; the same with Sangsang's fused
    kernels; and the least there could be, each input read once and each output written once. With
    the time that moving so much takes at the bandwidth of a GPU.

    The graph is exported at this size, without weights: a few seconds for a small model, a minute
    or two for SDXL.
    """
    subject, size_px = _subject(model, size, module, batch)
    with err.status(f"exporting {subject.name}"):
        graph, weights = subject.graph()
        counted = count_traffic(graph, weights, float_bytes=_BYTES[precision], views=views)
    title = f"{subject.name}, {size_px}x{size_px}, batch {batch}, {precision.value}"
    gpus = {**GPUS, **{f"{one:g} GB/s": one for one in bandwidth or ()}}
    out.print(traffic_table(counted, f"{title}: MB to and from memory"))
    out.print(time_table(counted, gpus))
    for note in notes(views=views):
        out.print(note, highlight=False, style="dim")
    path = output or Path("build/traffic") / f"{subject.name.replace(' ', '-')}-{size_px}.png"
    draw_traffic(counted, title, path)
    out.print(f"weights: {counted.weight_bytes / 1e6:,.1f} MB of it", highlight=False)
    out.print(f"the chart is {path}", highlight=False)


def _subject(model: str, size_px: int | None, module: Module, batch: int) -> tuple[Subject, int]:
    if model in ARCHITECTURES:
        if module != Module.UNET:
            raise typer.BadParameter(f"of {model} only the unet is known; give a folder")
        size_px = size_px or architecture_size_px(model)
        return published(model, size_px, batch), size_px
    if not Path(model).is_dir():
        known = ", ".join(ARCHITECTURES)
        raise typer.BadParameter(f"{model} is neither a folder nor one of {known}")
    folder = ModelFolder.open(Path(model))
    size_px = size_px or folder.default_width_px
    return of_folder(folder, module.value, size_px, batch), size_px


if __name__ == "__main__":
    sys.exit(run_tool(app, "sangsang traffic", (MeshError, ExportFailed, BadSize)))
