"""The engines of a module for TensorRT and TensorRT-RTX: found, copied or built."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..engines.adapter_bank import open_bank
from ..engines.cache import EngineCache
from ..engines.precisions import (
    DEFAULT_PRECISION,
    Precision,
    check_precision,
    devices_of,
    module_precision,
    read_prompts,
)
from ..models.folder import ModelFolder, ModuleName
from .reports import BuildPlace, ModuleReport, module_report, not_installed

if TYPE_CHECKING:
    from .engine_builder import EngineBuilder

# What has engines that are built for a kind of GPU.
COMPILED_BACKENDS = ("tensorrt", "tensorrt_rtx")


def target_devices(backend: str, devices: Sequence[str], precision: Precision) -> Sequence[str]:
    """Returns the GPUs that engines are built for; none for a backend that has no engines.

    Args:
        backend: what will run them.
        devices: those that were asked for; none means all that the backend builds for.
        precision: what the UNet computes in; of all GPUs, those without it are left out.

    Raises:
        ModelNotReady: what builds them is not installed or does not know one, one does not have
            the precision, or there is no GPU where one is needed.
    """
    try:
        if backend == "tensorrt":
            from ..engines.tensor_rt import gpu_identity

            return [gpu_identity().describe()]
        if backend == "tensorrt_rtx":
            from ..engines.tensor_rt_rtx import TARGETS, check_devices

            check_devices(devices)
            check_precision(backend, precision, devices)
            return devices or devices_of(precision, tuple(TARGETS))
    except ImportError as exc:
        raise not_installed(exc) from exc
    return ()


def build_engines(
    backend: str,
    folder: ModelFolder,
    module: ModuleName,
    graph: Path,
    place: BuildPlace,
    cache: EngineCache,
    devices: Sequence[str],
    tell: Callable[[Literal["compiling", "done"]], None],
    precision: Precision = DEFAULT_PRECISION,
) -> Iterator[ModuleReport]:
    """Yields a report for each engine of a module.

    Args:
        backend: one of `COMPILED_BACKENDS`.
        folder: the model.
        module: which of its modules.
        graph: folder of the module's build for ONNX Runtime.
        place: where builds go that are shipped with a model.
        cache: where builds of this machine go.
        devices: as from `target_devices`.
        tell: told what is done.
        precision: what the model's UNet computes in.

    Raises:
        ModelNotReady: an engine cannot be built.
    """
    # What is compiled on a GPU stays with it: whoever loads it looks into the cache alone.
    place = BuildPlace(cache, alone=True) if backend == "tensorrt" else place
    with _builder(backend, folder, module, graph, cache, precision) as builder:
        for device in devices:
            started, check = time.perf_counter(), None
            tell("compiling")
            key = builder.key(device)
            found = place.find(folder, key)
            if found is None:
                with place.store.writing(key) as target:
                    # Another process may have built it while this one waited for the lock.
                    found = place.find(folder, key)
                    if found is None and not place.copy(key, target):
                        check = builder.build(target, device)
            path = found or place.store.entry_path(key)
            yield module_report(f"{folder.label(module)}, {device}", path, started, check)
    tell("done")


def check_quantizer(folder: ModelFolder, precision: Precision) -> None:
    """Checks that what quantising needs is there, if the precision asks for it.

    Raises:
        ModelNotReady: modelopt is not installed, or the model has no prompts for calibration.
    """
    if precision == DEFAULT_PRECISION:
        return
    try:
        from .quantizing.calibration import check_installed
    except ImportError as exc:
        raise not_installed(exc) from exc
    check_installed()
    read_prompts(folder)


def _builder(
    backend: str,
    folder: ModelFolder,
    module: ModuleName,
    graph: Path,
    cache: EngineCache,
    precision: Precision,
) -> "EngineBuilder":
    bank = open_bank(folder) if module == "unet" else None
    try:
        if backend == "tensorrt":
            from .tensor_rt import TensorRtBuilder

            return TensorRtBuilder(folder, module, graph, bank, cache)
        from .tensor_rt_rtx import TensorRtRtxBuilder
    except ImportError as exc:
        raise not_installed(exc) from exc
    own = module_precision(module, precision)
    return TensorRtRtxBuilder(folder, module, graph, bank, cache, precision=own)
