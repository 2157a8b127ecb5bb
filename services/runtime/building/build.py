"""Builds all modules of a model: exports each, checks it against torch, stores it, skips the rest.

What is stored is what was checked: the check runs the very files that will be served, through the
engine that will serve them.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ..engines.cache import BuildKey, DamagedBuild, EngineCache, NotBuilt
from ..engines.loading import BACKENDS, find_build, resolve_cache
from ..engines.weightless import GRAPH_NAME, write_weight_list
from ..errors import ModelNotReady
from ..models.folder import MODULE_NAMES, ModelFolder, ModuleName
from .failures import CheckReport, ExportFailed

Phase: TypeAlias = Literal["looking", "loading", "exporting", "checking", "done"]


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """Where a build stands.

    Attributes:
        module: the module that is worked on.
        phase: what is done with it.
        done_count: modules that are done.
        module_count: modules in all.
    """

    module: ModuleName
    phase: Phase
    done_count: int
    module_count: int


Progress: TypeAlias = Callable[[BuildProgress], None]


@dataclass(frozen=True, slots=True)
class ModuleReport:
    """What was done for one module.

    Attributes:
        module: the module.
        seconds: time it took.
        size_bytes: bytes of what was stored, weights excluded.
        max_difference: largest absolute difference from torch over all checks; None when reused.
        row_exact: whether a row got the same bits in batches of every size that was tried, on
            this machine with one thread; None when reused.
        reused: whether a sound build was there already.
        path: folder of the build.
    """

    module: ModuleName
    seconds: float
    size_bytes: int
    max_difference: float | None
    row_exact: bool | None
    reused: bool
    path: Path


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did.

    Attributes:
        model_id: the model.
        backend: what it was built for.
        seconds: time it took.
        modules: one for each module; none for a backend that needs no build.
    """

    model_id: str
    backend: str
    seconds: float
    modules: tuple[ModuleReport, ...]


def build_model(
    folder: ModelFolder,
    *,
    backend: str = "onnxruntime",
    cache_dir: EngineCache | Path | None = None,
    beside: bool = False,
    progress: Progress | None = None,
) -> BuildReport:
    """Builds every module of a model that is not built yet.

    Args:
        folder: the model.
        backend: what will run it.
        cache_dir: where builds lie; None takes the user's cache.
        beside: whether to store them in the model's own folder, to be shipped with it.
        progress: told at each phase of each module.

    Returns:
        A report with one entry for each module.

    Raises:
        ModelNotReady: the packages for building are not installed, a module cannot be exported,
            or its export does not compute what torch computes.
    """
    if backend not in BACKENDS:
        raise ModelNotReady(f"no backend {backend!r}; there are {', '.join(BACKENDS)}")
    started = time.perf_counter()
    if backend == "torch":
        # Eager modules are loaded from the folder itself.
        return BuildReport(folder.model_id, backend, 0.0, ())
    place = EngineCache.beside(folder) if beside else resolve_cache(cache_dir)
    reports: list[ModuleReport] = []
    for index, module in enumerate(MODULE_NAMES):

        def report(phase: Phase, module: ModuleName = module, done: int = index) -> None:
            if progress is not None:
                progress(BuildProgress(module, phase, done, len(MODULE_NAMES)))

        reports.append(_build_module(folder, module, place, beside, report))
        report("done", done=index + 1)
    return BuildReport(folder.model_id, backend, time.perf_counter() - started, tuple(reports))


def _build_module(
    folder: ModelFolder,
    module: ModuleName,
    place: EngineCache,
    beside: bool,
    report: Callable[[Phase], None],
) -> ModuleReport:
    from ..engines.onnx_runtime import build_key

    started = time.perf_counter()
    report("looking")
    key = build_key(folder, module)
    found = _find(folder, key, place, beside)
    if found is not None:
        return _module_report(key, found, started, None)
    with place.writing(key) as target:
        # Another process may have built it while this one waited for the lock.
        found = _find(folder, key, place, beside)
        check = None if found else _export_and_check(folder, module, target, report)
    return _module_report(key, found or place.entry_path(key), started, check)


def _find(folder: ModelFolder, key: BuildKey, place: EngineCache, beside: bool) -> Path | None:
    try:
        return place.find(key) if beside else find_build(folder, key, place)
    except (NotBuilt, DamagedBuild, ModelNotReady):
        return None


def _module_report(
    key: BuildKey, path: Path, started: float, check: CheckReport | None
) -> ModuleReport:
    return ModuleReport(
        module=key.module,
        seconds=time.perf_counter() - started,
        size_bytes=sum(file.stat().st_size for file in path.iterdir()),
        max_difference=check.max_difference if check else None,
        row_exact=check.row_exact if check else None,
        reused=check is None,
        path=path,
    )


def _export_and_check(
    folder: ModelFolder, module: ModuleName, target: Path, report: Callable[[Phase], None]
) -> CheckReport:
    report("loading")
    try:
        from ..engines.torch_modules import load_module
        from .checking import check_export
        from .export import export_module
    except ImportError as exc:
        raise ModelNotReady(
            f"building needs {exc.name}, which is not installed; "
            'install the extra: pip install "sangsang[build]"'
        ) from exc
    try:
        network = load_module(folder, module)
        report("exporting")
        exported = export_module(folder, module, network)
        (target / GRAPH_NAME).write_bytes(exported.content)
        write_weight_list(target / GRAPH_NAME, exported.weights)
        report("checking")
        return check_export(folder, module, target, network)
    except ExportFailed as exc:
        raise ModelNotReady(f"{folder.model_id}: {exc}") from exc
