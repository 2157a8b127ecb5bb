"""The engines of a module for TensorRT and TensorRT-RTX: found, copied or built."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..engines.adapter_bank import open_bank
from ..engines.cache import EngineCache
from ..models.folder import ModelFolder, ModuleName
from .reports import BuildPlace, ModuleReport, module_report, not_installed

if TYPE_CHECKING:
    from .engine_builder import EngineBuilder

# What has engines that are built for a kind of GPU.
COMPILED_BACKENDS = ("tensorrt", "tensorrt_rtx")


def target_devices(backend: str, devices: Sequence[str]) -> Sequence[str]:
    """Returns the GPUs that engines are built for; none for a backend that has no engines.

    Args:
        backend: what will run them.
        devices: those that were asked for; none means all that the backend builds for.

    Raises:
        ModelNotReady: what builds them is not installed or does not know one, or there is no GPU
            where one is needed.
    """
    try:
        if backend == "tensorrt":
            from ..engines.tensor_rt import gpu_identity

            return [gpu_identity().describe()]
        if backend == "tensorrt_rtx":
            from ..engines.tensor_rt_rtx import TARGETS, check_devices

            check_devices(devices)
            return devices or tuple(TARGETS)
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

    Raises:
        ModelNotReady: an engine cannot be built.
    """
    # What is compiled on a GPU stays with it: whoever loads it looks into the cache alone.
    place = BuildPlace(cache, alone=True) if backend == "tensorrt" else place
    with _builder(backend, folder, module, graph, cache) as builder:
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


def _builder(
    backend: str, folder: ModelFolder, module: ModuleName, graph: Path, cache: EngineCache
) -> "EngineBuilder":
    try:
        if backend == "tensorrt":
            from .tensor_rt import TensorRtBuilder as Builder
        else:
            from .tensor_rt_rtx import TensorRtRtxBuilder as Builder
    except ImportError as exc:
        raise not_installed(exc) from exc
    bank = open_bank(folder) if module == "unet" else None
    return Builder(folder, module, graph, bank, cache)
