"""Writes a built model into a model repository of Triton: one of its models for each engine."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ..engines.cache import EngineCache
from ..engines.loading import resolve_cache
from ..errors import ModelNotReady
from ..models.folder import ModelFolder
from ..models.manifest import model_parts
from .hosted_module import HostedModule
from .hosts import host

# Told before and after each engine: its name, how many are written, and how many there are.
Progress: TypeAlias = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One model that was written.

    Attributes:
        name: in the repository.
        seconds: time it took.
        size_bytes: of all its files.
    """

    name: str
    seconds: float
    size_bytes: int


def export_model(
    folder: ModelFolder,
    repository: Path,
    *,
    backend: str = "onnxruntime",
    cache: EngineCache | Path | None = None,
    instance_count: int = 1,
    force: bool = False,
    progress: Progress = lambda *_: None,
) -> list[ModelReport]:
    """Writes every engine of a model that a stage loads, and says what was written.

    Each is complete when it appears in the repository, so a server may be watching.

    Args:
        folder: the model, built.
        repository: where to; made if it is not there.
        backend: which of Triton's hosts them, one of `HOSTS`.
        cache: where builds lie that are not beside the model; None takes the user's cache.
        instance_count: copies of each, which run side by side.
        force: whether the repository may have something in it already. Models of the same names
            are replaced, others stay.
        progress: told of each engine.

    Raises:
        ModelNotReady: something is not built, the backend is unknown, or the repository is not
            empty.
    """
    repository = repository.resolve()
    _check_place(repository, force=force)
    cache = resolve_cache(cache)
    # All before anything is written: half a repository serves nobody.
    hosted = [
        host(part, module, backend=backend, cache=cache) for part, module in model_parts(folder)
    ]
    repository.mkdir(parents=True, exist_ok=True)
    reports: list[ModelReport] = []
    for index, one in enumerate(hosted):
        progress(one.name, index, len(hosted))
        reports.append(write_module(one, repository, instance_count=instance_count))
        progress(one.name, index + 1, len(hosted))
    return reports


def write_module(hosted: HostedModule, repository: Path, *, instance_count: int = 1) -> ModelReport:
    """Writes one engine into a repository that is there; replaces one of its name."""
    started = time.perf_counter()
    # A server takes every folder in a repository for a model; but into a mount nothing is renamed.
    place = repository if os.path.ismount(repository) else repository.parent
    scratch = Path(tempfile.mkdtemp(prefix=f".{repository.name}.", dir=place))
    try:
        written = hosted.write_into(scratch / "new", instance_count)
        size_bytes = sum(file.stat().st_size for file in written.rglob("*") if file.is_file())
        final = repository / hosted.name
        if final.exists():
            final.rename(scratch / "old")
        written.rename(final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return ModelReport(hosted.name, time.perf_counter() - started, size_bytes)


def _check_place(repository: Path, *, force: bool) -> None:
    if repository.exists() and not repository.is_dir():
        raise ModelNotReady(f"{repository} is not a folder; name another one")
    if repository.is_dir() and any(repository.iterdir()) and not force:
        raise ModelNotReady(
            f"{repository} is not empty; name another folder, or add --force, which replaces the "
            "models of the same names in it and leaves the others"
        )
