"""Builds all that serving a model needs: its modules, then its sampler tables and preview map.

Each module is exported, checked against torch and stored; what is there already is skipped. What
is stored is what was checked: the very files that will be served, in the engine that will serve
them.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ..engines.cache import EngineCache
from ..engines.loading import BACKENDS, resolve_cache
from ..engines.precisions import DEFAULT_PRECISION, check_precision
from ..engines.weightless import GRAPH_NAME, write_weight_list
from ..errors import ModelNotReady
from ..models.adapters import adapted_layers
from ..models.folder import ModelFolder, ModuleName
from ..models.manifest import model_parts
from .engine_builds import COMPILED_BACKENDS, build_engines, check_quantizer, target_devices
from .failures import CheckReport, ExportFailed
from .reports import BuildPlace, ModuleReport, module_report, not_installed
from .sampling import SamplingReport, build_sampling
from .schedules import DEFAULT_MAX_STEP_COUNT

Phase: TypeAlias = Literal["looking", "loading", "exporting", "checking", "compiling", "done"]


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """Where a build stands.

    Attributes:
        part: what is worked on: a module, or `samplers`.
        phase: what is done with it.
        done_count: parts that are done.
        part_count: parts in all.
    """

    part: str
    phase: Phase
    done_count: int
    part_count: int


Progress: TypeAlias = Callable[[BuildProgress], None]


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did.

    Attributes:
        model_id: the model.
        backend: what it was built for.
        seconds: time it took.
        modules: one for each module; none for a backend that needs no build.
        sampling: what was done for the sampler tables and the preview map.
    """

    model_id: str
    backend: str
    seconds: float
    modules: tuple[ModuleReport, ...]
    sampling: SamplingReport


def build_model(
    folder: ModelFolder,
    *,
    backend: str = "onnxruntime",
    cache_dir: EngineCache | Path | None = None,
    beside: bool = False,
    devices: Sequence[str] = (),
    precision: str = DEFAULT_PRECISION,
    max_step_count: int = DEFAULT_MAX_STEP_COUNT,
    progress: Progress | None = None,
) -> BuildReport:
    """Builds what serving a model needs and is not built yet.

    Args:
        folder: the model.
        backend: what will run it.
        cache_dir: where builds lie; None takes the user's cache.
        beside: whether to store them in the model's own folder, to be shipped with it. What is
            compiled for this machine goes to the cache all the same.
        devices: GPUs that `tensorrt_rtx` builds engines for, e.g. `sm_89`; none means all that it
            has the precision for. Of no meaning for other backends: `tensorrt` builds for the GPU
            that is there.
        precision: what the UNet of `tensorrt_rtx` computes in: `f16`, `int8` or `fp8`.
        max_step_count: most denoising steps that a request may ask for; tables take time to
            compile in proportion. Tables that are there already keep theirs.
        progress: told at each phase of each part.

    Raises:
        ModelNotReady: the packages for building are not installed, a module cannot be exported,
            or its export does not compute what torch computes.
    """
    if backend not in BACKENDS:
        raise ModelNotReady(f"no backend {backend!r}; there are {', '.join(BACKENDS)}")
    # Before time is spent on what cannot be compiled.
    chosen = check_precision(backend, precision, ())
    compiled_for = target_devices(backend, devices, chosen)
    check_quantizer(folder, chosen)
    started = time.perf_counter()
    cache = resolve_cache(cache_dir)
    # What was built before is copied beside the model rather than built again.
    place = BuildPlace(EngineCache.beside(folder), cache) if beside else BuildPlace(cache)
    # Eager torch modules are loaded from the folder itself.
    parts = () if backend == "torch" else model_parts(folder)
    reports: list[ModuleReport] = []
    for index, (part, module) in enumerate(parts):
        tell = _teller(progress, part.label(module), index, len(parts) + 1)
        reports.append(_build_module(part, module, place, tell))
        if backend == "openvino":
            reports.append(_compile_module(part, module, cache, tell))
        if backend in COMPILED_BACKENDS:
            graph = reports[-1].path
            reports += build_engines(
                backend, part, module, graph, place, cache, compiled_for, tell, chosen
            )
    tell = _teller(progress, "samplers", len(parts), len(parts) + 1)
    tell("compiling")
    sampling = _build_sampling(folder, backend, place.store, beside, max_step_count)
    tell("done")
    seconds = time.perf_counter() - started
    return BuildReport(folder.model_id, backend, seconds, tuple(reports), sampling)


def _teller(
    progress: Progress | None, part: str, done_count: int, part_count: int
) -> Callable[[Phase], None]:
    def tell(phase: Phase) -> None:
        if progress is not None:
            done = done_count + (phase == "done")
            progress(BuildProgress(part, phase, done, part_count))

    return tell


def _build_module(
    folder: ModelFolder, module: ModuleName, place: BuildPlace, tell: Callable[[Phase], None]
) -> ModuleReport:
    from ..engines.onnx_runtime import build_key

    started = time.perf_counter()
    tell("looking")
    key = build_key(folder, module)
    found, check = place.find(folder, key), None
    if found is None:
        with place.store.writing(key) as target:
            # Another process may have built it while this one waited for the lock.
            found = place.find(folder, key)
            if found is None and not place.copy(key, target):
                check = _export_and_check(folder, module, target, tell)
    tell("done")
    path = found or place.store.entry_path(key)
    return module_report(folder.label(module), path, started, check)


def _compile_module(
    folder: ModelFolder, module: ModuleName, cache: EngineCache, tell: Callable[[Phase], None]
) -> ModuleReport:
    try:
        from .compiling import compile_and_check
    except ImportError as exc:
        raise ModelNotReady(
            f"compiling for OpenVINO needs {exc.name}, which is not installed; "
            'install the extras: pip install "sangsang[build,openvino]"'
        ) from exc
    started = time.perf_counter()
    tell("compiling")
    path, check = compile_and_check(folder, module, cache)
    tell("done")
    return module_report(f"{folder.label(module)}, compiled", path, started, check)


def _build_sampling(
    folder: ModelFolder, backend: str, store: EngineCache, beside: bool, max_step_count: int
) -> SamplingReport:
    with warnings.catch_warnings():
        # diffusers' schedulers do what newer numpys deprecate; whoever builds cannot help it.
        warnings.simplefilter("ignore", DeprecationWarning)
        return build_sampling(
            folder,
            # The decoder's own graph is there whatever else it is compiled for.
            backend="torch" if backend == "torch" else "onnxruntime",
            cache_dir=store,
            beside=beside,
            max_step_count=max_step_count,
        )


def _export_and_check(
    folder: ModelFolder, module: ModuleName, target: Path, tell: Callable[[Phase], None]
) -> CheckReport:
    tell("loading")
    try:
        from ..engines.torch_modules import load_module
        from .checking import check_export
        from .export import export_module
    except ImportError as exc:
        raise not_installed(exc) from exc
    try:
        network = load_module(folder, module)
        tell("exporting")
        layers = adapted_layers(folder) if module == "unet" else ()
        exported = export_module(folder, module, network, layers)
        (target / GRAPH_NAME).write_bytes(exported.content)
        write_weight_list(target / GRAPH_NAME, exported.weights)
        tell("checking")
        return check_export(folder, module, target, network, layers)
    except ExportFailed as exc:
        raise ModelNotReady(f"{folder.model_id}: {exc}") from exc
