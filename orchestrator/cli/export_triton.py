"""`sangsang export-triton`: a built model to a model repository of NVIDIA's Triton server."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ...services.runtime.model_repository.hosts import HOSTS
from ...services.runtime.model_repository.repository import ModelReport, export_model
from ...services.runtime.models.folder import ModelFolder
from .console import DEFAULT_CACHE, CacheDir, out, parts_progress

# What the server of each backend has to have.
_NEEDS = {
    "onnxruntime": "any of NVIDIA's images has the backend",
    "python": "the Python of its image needs ONNX Runtime: pip install onnxruntime",
    "tensorrt": "its TensorRT has to be the version that built the engines, its GPU of that kind",
}


def export_triton(
    model_folder: Annotated[Path, typer.Argument(help="Model folder, built.")],
    output: Annotated[Path, typer.Argument(help="Model repository to write.")],
    backend: Annotated[
        str, typer.Option(help=f"What hosts the engines in Triton: {', '.join(HOSTS)}.")
    ] = HOSTS[0],
    instances: Annotated[
        int, typer.Option(min=1, help="Copies of each engine, which run side by side.")
    ] = 1,
    cache_dir: CacheDir = DEFAULT_CACHE,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Write into a folder that is not empty: models of the same names are replaced.",
        ),
    ] = False,
) -> None:
    """Writes a model's engines for NVIDIA's Triton Inference Server, one of its models for each.

    Stages with the backend triton_server call them there. Says how to start both.
    """
    folder = ModelFolder.open(model_folder)
    with parts_progress() as bar:
        task = bar.add_task("looking", total=None)
        reports = export_model(
            folder,
            output,
            backend=backend,
            cache=cache_dir,
            instance_count=instances,
            force=force,
            progress=lambda name, done, count: bar.update(
                task, description=name, completed=done, total=count
            ),
        )
    _print(reports)
    _print_next_steps(model_folder, output, backend)


def _print(reports: Sequence[ModelReport]) -> None:
    table = Table("model", "size", "time")
    for report in reports:
        mebibytes = report.size_bytes / 2**20
        table.add_row(report.name, f"{mebibytes:.1f} MiB", f"{report.seconds:.1f} s")
    out.print(table)


def _print_next_steps(model_folder: Path, output: Path, backend: str) -> None:
    repository = shlex.quote(str(output.resolve()))
    lines = (
        f"start it in NVIDIA's image tritonserver:<release>-py3 ({_NEEDS[backend]}):",
        "  docker run --rm --network host --shm-size 1g "
        f"-v {repository}:/models <image> "
        "tritonserver --model-repository=/models",
        "and a mesh whose stages call it, or set the same two for each stage's own process:",
        "  SANGSANG_BACKEND=triton_server SANGSANG_TRITON_SERVER_ADDRESS=127.0.0.1:8001 "
        f"sangsang up --model {shlex.quote(str(model_folder))}",
    )
    for line in lines:
        out.print(line, highlight=False, markup=False, soft_wrap=True)
