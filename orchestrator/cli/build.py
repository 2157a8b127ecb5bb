"""`sangsang build`: a diffusers folder to engines."""

from pathlib import Path
from typing import Annotated

import typer

from .building import build_folder
from .console import DEFAULT_CACHE, CacheDir


def build(
    model_folder: Annotated[Path, typer.Argument(help="Folder in the diffusers layout.")],
    backend: Annotated[str, typer.Option(help="Engine backend.")] = "onnxruntime",
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="GPU to build engines for, e.g. sm_89; all that the backend knows if none."
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="What the UNet computes in on a GPU: f16, or int8 or fp8, which are calibrated on "
            "pictures that the model draws of FOLDER/calibration/prompts.txt."
        ),
    ] = "f16",
    cache_dir: CacheDir = DEFAULT_CACHE,
    beside: Annotated[
        bool,
        typer.Option(help="Put the engines into the model folder, so that it serves as it is."),
    ] = False,
) -> None:
    """Exports each module of a model, checks it against torch, compiles it, and caches it.

    Reads safetensors only: pickle weights are refused. What is built already is left alone.
    """
    build_folder(
        model_folder,
        backend=backend,
        devices=device or (),
        precision=precision,
        cache_dir=cache_dir,
        beside=beside,
    )
