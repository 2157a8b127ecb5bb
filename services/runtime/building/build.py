"""Builds all that serving a model needs: its modules, then its sampler tables and preview map.

Each module is exported, checked against torch and stored; what is there already is skipped. What
is stored is what was checked: the very files that will be served, in the engine that will serve
them.
"""

import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ..engines.adapter_bank import open_bank
from ..engines.cache import ENTRY_NAME, BuildKey, EngineCache
from ..engines.loading import BACKENDS, find_build, resolve_cache
from ..engines.precisions import (
    DEFAULT_PRECISION,
    Precision,
    check_precision,
    devices_of,
    module_precision,
    read_prompts,
)
from ..engines.weightless import GRAPH_NAME, write_weight_list
from ..errors import ModelNotReady
from ..models.adapters import adapted_layers
from ..models.folder import ModelFolder, ModuleName
from ..models.manifest import model_parts
from .failures import CheckReport, ExportFailed
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
class ModuleReport:
    """What was done for one module.

    Attributes:
        module: the module; of a further UNet its folder's name.
        seconds: time it took.
        size_bytes: bytes of what was stored, weights excluded.
        max_difference: largest absolute difference over all checks from torch, for a compiled
            module or an engine from ONNX Runtime in f32; None when reused.
        row_exact: whether a row got the same bits in batches of every size that was tried, on
            this machine with one thread; None when reused, or where none was tried.
        reused: whether a sound build was there already.
        path: folder of the build.
    """

    module: str
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
            has the precision for. Of no meaning for other backends.
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
    if backend == "tensorrt_rtx":
        from ..engines.tensor_rt_rtx import check_devices

        check_devices(devices)
    chosen = check_precision(backend, precision, devices)
    _check_quantizer(folder, chosen)
    started = time.perf_counter()
    place = EngineCache.beside(folder) if beside else resolve_cache(cache_dir)
    # What was built before is copied beside the model rather than built again.
    source = resolve_cache(cache_dir) if beside else None
    # Eager torch modules are loaded from the folder itself.
    parts = () if backend == "torch" else model_parts(folder)
    reports: list[ModuleReport] = []
    for index, (part, module) in enumerate(parts):
        tell = _teller(progress, part.label(module), index, len(parts) + 1)
        reports.append(_build_module(part, module, place, source, tell))
        if backend == "openvino":
            reports.append(_compile_module(part, module, resolve_cache(cache_dir), tell))
        if backend == "tensorrt_rtx":
            graph = reports[-1].path
            reports += _build_engines(part, module, graph, place, source, devices, chosen, tell)
    tell = _teller(progress, "samplers", len(parts), len(parts) + 1)
    tell("compiling")
    with warnings.catch_warnings():
        # diffusers' schedulers do what newer numpys deprecate; whoever builds cannot help it.
        warnings.simplefilter("ignore", DeprecationWarning)
        sampling = build_sampling(
            folder,
            # The decoder's own graph is there whatever else it is compiled for.
            backend="torch" if backend == "torch" else "onnxruntime",
            cache_dir=place,
            beside=beside,
            max_step_count=max_step_count,
        )
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
    folder: ModelFolder,
    module: ModuleName,
    place: EngineCache,
    source: EngineCache | None,
    tell: Callable[[Phase], None],
) -> ModuleReport:
    from ..engines.onnx_runtime import build_key

    started = time.perf_counter()
    tell("looking")
    key = build_key(folder, module)
    beside = source is not None
    found = _find(folder, key, place, beside=beside)
    check = None
    if found is None:
        with place.writing(key) as target:
            # Another process may have built it while this one waited for the lock.
            found = _find(folder, key, place, beside=beside)
            if found is None and not _copy(key, source, target):
                check = _export_and_check(folder, module, target, tell)
    tell("done")
    return _module_report(folder.label(module), found or place.entry_path(key), started, check)


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
    return _module_report(f"{folder.label(module)}, compiled", path, started, check)


def _build_engines(
    folder: ModelFolder,
    module: ModuleName,
    graph: Path,
    place: EngineCache,
    source: EngineCache | None,
    devices: Sequence[str],
    precision: Precision,
    tell: Callable[[Phase], None],
) -> Iterator[ModuleReport]:
    try:
        from ..engines.tensor_rt_rtx import TARGETS, build_key
        from .tensor_rt_rtx import EngineBuilder
    except ImportError as exc:
        raise _not_installed(exc) from exc
    bank = open_bank(folder) if module == "unet" else None
    own = module_precision(module, precision)
    with EngineBuilder(folder, module, graph, bank, own) as builder:
        # The other modules are built for the GPUs that the UNet is built for.
        for device in devices or devices_of(precision, tuple(TARGETS)):
            started, check = time.perf_counter(), None
            tell("compiling")
            key = build_key(folder, module, device, bank, own)
            found = _find(folder, key, place, beside=source is not None)
            if found is None:
                with place.writing(key) as target:
                    found = _find(folder, key, place, beside=source is not None)
                    if found is None and not _copy(key, source, target):
                        builder.build(target, device)
                        check = builder.check
            path = found or place.entry_path(key)
            yield _module_report(f"{folder.label(module)}, {device}", path, started, check)
    tell("done")


def _check_quantizer(folder: ModelFolder, precision: Precision) -> None:
    """Raises ModelNotReady if what quantising needs is not there."""
    if precision == DEFAULT_PRECISION:
        return
    try:
        from .quantizing.calibration import check_installed
    except ImportError as exc:
        raise _not_installed(exc) from exc
    check_installed()
    read_prompts(folder)


def _find(folder: ModelFolder, key: BuildKey, place: EngineCache, *, beside: bool) -> Path | None:
    try:
        return place.find(key) if beside else find_build(folder, key, place)
    except ModelNotReady:
        return None


def _copy(key: BuildKey, source: EngineCache | None, target: Path) -> bool:
    """Returns whether `source` has a build of the key, copied to `target` if so."""
    try:
        found = None if source is None else source.find(key)
    except ModelNotReady:
        return False
    for file in () if found is None else found.iterdir():
        if file.name != ENTRY_NAME:
            shutil.copyfile(file, target / file.name)
    return found is not None


def _module_report(
    module: str, path: Path, started: float, check: CheckReport | None
) -> ModuleReport:
    return ModuleReport(
        module=module,
        seconds=time.perf_counter() - started,
        size_bytes=sum(file.stat().st_size for file in path.iterdir()),
        max_difference=check.max_difference if check else None,
        row_exact=check.row_exact if check else None,
        reused=check is None,
        path=path,
    )


def _not_installed(error: ImportError) -> ModelNotReady:
    return ModelNotReady(
        f"building needs {error.name}, which is not installed; "
        'install the extra: pip install "sangsang[build]"'
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
        raise _not_installed(exc) from exc
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
