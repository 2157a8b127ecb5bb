"""Finds the build of a module and loads it: beside the model first, then in the cache."""

from pathlib import Path

from ..errors import ModelNotReady
from ..models.folder import ModelFolder, ModuleName
from .adapter_bank import AdapterBank, open_bank
from .cache import DEFAULT_CACHE_PATH, BuildKey, DamagedBuild, EngineCache, NotBuilt
from .engine import Engine
from .precisions import (
    DEFAULT_PRECISION,
    PRECISIONS,
    Precision,
    check_precision,
    module_precision,
)
from .remote_server import RemoteServer
from .timing import Timing

BACKENDS = ("onnxruntime", "openvino", "tensorrt_rtx", "timed", "torch", "triton_server")


def load_engine(
    folder: ModelFolder,
    module: ModuleName,
    *,
    backend: str = "onnxruntime",
    threads: int = 1,
    precision: Precision = DEFAULT_PRECISION,
    cache: EngineCache | Path | None = None,
    remote: RemoteServer | None = None,
    timing: Timing | None = None,
) -> Engine:
    """Returns the engine of one module, ready to infer; the UNet's with the model's adapters.

    Args:
        folder: the model.
        module: which of its modules.
        backend: one of `BACKENDS`. Its packages are imported here and not before.
        threads: threads of one `infer`, at least 1. For `torch` they are the whole process's.
        precision: what a GPU's UNet computes in, where the backend leaves a choice.
        cache: where builds lie that are not beside the model; None takes the user's cache.
        remote: who runs the engine, for `triton_server`.
        timing: what is held and for how long, for `timed`.

    Raises:
        ModelNotReady: the module has not been built for this backend, its build is damaged or
            from other weights, or the backend is unknown or not installed.
        StageUnavailable: the server that runs the engine cannot be reached.
    """
    check_precision(backend, precision, ())
    try:
        if backend == "onnxruntime":
            from . import onnx_runtime

            build = find_build(folder, onnx_runtime.build_key(folder, module), cache)
            return onnx_runtime.OnnxRuntimeEngine(
                folder, module, build, threads=threads, bank=_bank(folder, module)
            )
        if backend == "openvino":
            from . import onnx_runtime, openvino_cpu

            bank, place = _bank(folder, module), resolve_cache(cache)
            graph = find_build(folder, onnx_runtime.build_key(folder, module), place)
            build = openvino_cpu.compile_missing(
                folder, module, graph, place, threads=threads, bank=bank
            )
            return openvino_cpu.OpenVinoEngine(folder, module, build, threads=threads, bank=bank)
        if backend == "tensorrt_rtx":
            from . import tensor_rt_rtx

            bank, device = _bank(folder, module), tensor_rt_rtx.gpu_device()
            own = module_precision(module, precision)
            key = tensor_rt_rtx.build_key(folder, module, device, bank, own)
            build = find_build(folder, key, cache)
            return tensor_rt_rtx.TensorRtRtxEngine(folder, module, build, bank, own)
        if backend == "timed":
            from .timed import load_timed

            return load_timed(folder, module, timing or Timing(), bank=_bank(folder, module))
        if backend == "torch":
            from .torch_eager import TorchEngine

            return TorchEngine(folder, module, threads=threads, bank=_bank(folder, module))
        if backend == "triton_server":
            if remote is None or not remote.address:
                raise ModelNotReady(
                    "backend triton_server needs SANGSANG_TRITON_SERVER_ADDRESS, `host:port`"
                )
            from .triton_server import TritonServerEngine

            return TritonServerEngine(folder, module, remote, bank=_bank(folder, module))
    except ImportError as exc:
        raise ModelNotReady(f"backend {backend} needs {exc.name}, which is not installed") from exc
    raise ModelNotReady(f"no backend {backend!r}; there are {', '.join(BACKENDS)}")


def _bank(folder: ModelFolder, module: ModuleName) -> AdapterBank | None:
    return open_bank(folder) if module == "unet" else None


def find_build(folder: ModelFolder, key: BuildKey, cache: EngineCache | Path | None) -> Path:
    """Returns the folder with a module's build.

    Raises:
        ModelNotReady: neither beside the model nor in the cache is a sound build of this key.
    """
    problems: list[str] = []
    for place in (EngineCache.beside(folder), resolve_cache(cache)):
        try:
            return place.find(key)
        except (NotBuilt, DamagedBuild) as exc:
            problems.append(exc.message)
    raise ModelNotReady(
        f"{key.module} of {folder.model_id} is not built for {key.backend} "
        f"({'; '.join(problems)}); run `sangsang build {folder.path}{_options(key)}`"
    )


def _options(key: BuildKey) -> str:
    # What is not a backend of its own, as the sampler tables, is built with any.
    other = key.backend in BACKENDS and key.backend != BACKENDS[0]
    precision = key.precision.partition(",")[0]
    chosen = other and precision in PRECISIONS and precision != DEFAULT_PRECISION
    return f" --backend {key.backend}" * other + f" --precision {precision}" * chosen


def resolve_cache(cache: EngineCache | Path | None) -> EngineCache:
    """Returns the cache that an argument means: itself, the one at a path, or the user's."""
    return cache if isinstance(cache, EngineCache) else EngineCache(cache or DEFAULT_CACHE_PATH)
