"""Builds all modules of a model: exports each, checks it against torch, stores it, skips the rest.

What is stored is what was checked: the check runs the very files that will be served, through the
engine that will serve them.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from ..engines.cache import BuildKey, DamagedBuild, EngineCache, NotBuilt
from ..engines.loading import BACKENDS, find_build, resolve_cache
from ..engines.weightless import GRAPH_NAME, write_weight_list
from ..errors import ModelNotReady
from ..models.folder import MODULE_NAMES, ModelFolder, ModuleName

if TYPE_CHECKING:
    from torch import nn

Phase: TypeAlias = Literal["looking", "loading", "exporting", "checking", "done"]

# Largest difference allowed between the engine and torch, as a share of the largest output (at
# least 1). Both compute in f32 and sum in another order: 1e-5 is usual, a wrong graph is off by 1.
TOLERANCE = 5e-4
# Rows and sides of the checks, in the smallest sizes that the module takes. One row, odd rows,
# several rows; square and not; none of them the sizes that the tracer saw.
_CHECKS: tuple[tuple[int, tuple[int, int]], ...] = ((1, (4, 4)), (2, (3, 5)), (5, (4, 2)))


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
        reused: whether a sound build was there already.
        path: folder of the build.
    """

    module: ModuleName
    seconds: float
    size_bytes: int
    max_difference: float | None
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
        difference = None if found else _export_and_check(folder, module, target, report)
    return _module_report(key, found or place.entry_path(key), started, difference)


def _find(folder: ModelFolder, key: BuildKey, place: EngineCache, beside: bool) -> Path | None:
    try:
        return place.find(key) if beside else find_build(folder, key, place)
    except (NotBuilt, DamagedBuild, ModelNotReady):
        return None


def _module_report(
    key: BuildKey, path: Path, started: float, difference: float | None
) -> ModuleReport:
    return ModuleReport(
        module=key.module,
        seconds=time.perf_counter() - started,
        size_bytes=sum(file.stat().st_size for file in path.iterdir()),
        max_difference=difference,
        reused=difference is None,
        path=path,
    )


def _export_and_check(
    folder: ModelFolder, module: ModuleName, target: Path, report: Callable[[Phase], None]
) -> float:
    report("loading")
    try:
        from ..engines.torch_modules import load_module
        from .export import ExportFailed, export_module
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


def check_export(
    folder: ModelFolder, module: ModuleName, build: Path, network: "nn.Module"
) -> float:
    """Returns the largest absolute difference between a build and torch over several shapes.

    Args:
        folder: the model.
        module: which module.
        build: folder with the graph.
        network: the module in torch.

    Raises:
        ExportFailed: the difference exceeds `TOLERANCE`, or a value is not finite.
    """
    import torch

    from ..engines.onnx_runtime import OnnxRuntimeEngine
    from .export import ExportFailed, example_inputs

    engine = OnnxRuntimeEngine(folder, module, build, threads=torch.get_num_threads())
    largest = 0.0
    for seed, (batch, sides) in enumerate(_CHECKS):
        inputs = example_inputs(folder, module, batch, sides, seed)
        with torch.inference_mode():
            expected = network(*map(torch.from_numpy, inputs.values())).numpy()
        actual = engine.infer(inputs)[engine.outputs[0].name]
        difference = _difference(expected, actual)
        if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
            shapes = {name: list(array.shape) for name, array in inputs.items()}
            raise ExportFailed(
                f"the export of {module} differs from torch by {difference:.2e} for {shapes}; "
                "please report the model's configuration"
            )
        largest = max(largest, difference)
    engine.close()
    return largest


def _difference(expected: np.ndarray[Any, Any], actual: np.ndarray[Any, Any]) -> float:
    if expected.shape != actual.shape:
        return float("inf")
    # NaN anywhere makes the result NaN, which no comparison lets pass.
    return float(np.abs(expected - actual).max())
