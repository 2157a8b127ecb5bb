"""What the commands share: the consoles, the default model, and how a failure is told."""

from pathlib import Path
from typing import Annotated

import grpc
import typer
from grpc_status import rpc_status
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ...services.runtime.errors import ModelNotReady
from ..settings import DEFAULT_PORT

DEFAULT_ADDRESS = f"127.0.0.1:{DEFAULT_PORT}"
DEFAULT_CACHE = Path.home() / ".cache" / "sangsang"

out = Console()
err = Console(stderr=True)

Address = Annotated[
    str,
    typer.Option("--address", help="Where the mesh listens, host:port.", envvar="SANGSANG_ADDRESS"),
]
CacheDir = Annotated[
    Path,
    typer.Option(
        "--cache-dir", help="Where compiled engines are kept.", envvar="SANGSANG_CACHE_DIR"
    ),
]
ModelFolders = Annotated[
    list[Path] | None,
    typer.Option(
        "--model",
        "-m",
        help="Model folder (diffusers layout) to serve; may be repeated. Default: pocket.",
    ),
]


def fail(message: str) -> int:
    """Prints an error and returns the exit code that goes with it."""
    # What has brackets is no markup: `pip install "sangsang[tensorrt]"`.
    err.print(f"[bold red]error[/bold red] {escape(message)}", highlight=False)
    return 1


def parts_progress() -> Progress:
    """Returns the display of work that goes through a model's parts."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<28}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=err,
    )


def model_paths(models: list[Path] | None) -> list[Path]:
    """Returns the model folders to serve: those given, else the shipped one.

    Raises:
        ModelNotReady: none was given and the shipped one is not there.
    """
    if models:
        return models
    shipped = Path(__file__).resolve().parents[2] / "deploy" / "models" / "pocket"
    if (shipped / "model_index.json").is_file():
        return [shipped]
    raise ModelNotReady(
        "the shipped model is not beside this installation; name a folder with --model"
    )


def describe(error: grpc.RpcError, address: str) -> str:
    """Returns what a failed call means to the person who made it."""
    code: grpc.StatusCode = error.code()  # pyright: ignore[reportAttributeAccessIssue] a Call too
    details: str = error.details() or ""  # pyright: ignore[reportAttributeAccessIssue]
    if code is grpc.StatusCode.UNAVAILABLE and rpc_status.from_call(error) is None:  # pyright: ignore[reportArgumentType]
        return (
            f"no mesh answers at {address}; start one with `sangsang up`, or add --local to "
            "start one for this call"
        )
    return f"{code.name}: {details}"
