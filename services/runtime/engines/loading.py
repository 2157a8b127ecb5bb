"""Finds the build of a module and loads it: beside the model first, then in the cache."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelNotReady
from ..models.folder import ModelFolder, ModuleName
from .adapter_bank import AdapterBank, open_bank
from .cache import DEFAULT_CACHE_PATH, BuildKey, DamagedBuild, EngineCache, NotBuilt
from .engine import Engine
from .execution_lane import ExecutionLane
from .precisions import (
    DEFAULT_PRECISION,
    Precision,
    build_option,
    check_precision,
    module_precision,
)
from .remote_server import RemoteServer
from .timing import Timing

# What installs all that a backend imports; the others come with `cpu`.
_EXTRAS = {
    "openvino": "openvino",
    "tensorrt": "gpu,tensorrt",
    "tensorrt_rtx": "gpu,tensorrt-rtx",
    "torch": "gpu",
    "triton_server": "triton-server",
}


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
    lane: ExecutionLane | None = None,
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
        lane: where on a GPU `tensorrt` and `tensorrt_rtx` run; None makes a lane of its own.

    Raises:
        ModelNotReady: the module has not been built for this backend, its build is damaged or
            from other weights, or the backend is unknown or not installed.
        StageUnavailable: the server that runs the engine cannot be reached.
    """
    load = _LOADERS.get(backend)
    if load is None:
        raise ModelNotReady(f"no backend {backend!r}; there are {', '.join(BACKENDS)}")
    check_precision(backend, precision, ())
    wanted = _Wanted(
        folder,
        module,
        bank=open_bank(folder) if module == "unet" else None,
        threads=threads,
        precision=module_precision(module, precision),
        cache=resolve_cache(cache),
        remote=remote,
        timing=timing or Timing(),
        lane=lane,
    )
    try:
        return load(wanted)
    except ImportError as exc:
        raise _not_installed(backend, exc) from exc


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The arguments of `load_engine`, with the module's own adapters and precision."""

    folder: ModelFolder
    module: ModuleName
    bank: AdapterBank | None
    threads: int
    precision: Precision
    cache: EngineCache
    remote: RemoteServer | None
    timing: Timing
    lane: ExecutionLane | None


def _onnxruntime(wanted: _Wanted) -> Engine:
    from . import onnx_runtime

    folder, module = wanted.folder, wanted.module
    build = find_build(folder, onnx_runtime.build_key(folder, module), wanted.cache)
    return onnx_runtime.OnnxRuntimeEngine(
        folder, module, build, threads=wanted.threads, bank=wanted.bank
    )


def _openvino(wanted: _Wanted) -> Engine:
    from . import onnx_runtime, openvino_cpu

    folder, module, bank, threads = wanted.folder, wanted.module, wanted.bank, wanted.threads
    graph = find_build(folder, onnx_runtime.build_key(folder, module), wanted.cache)
    build = openvino_cpu.compile_missing(
        folder, module, graph, wanted.cache, threads=threads, bank=bank
    )
    return openvino_cpu.OpenVinoEngine(folder, module, build, threads=threads, bank=bank)


def _tensorrt(wanted: _Wanted) -> Engine:
    from . import tensor_rt

    folder, module, bank = wanted.folder, wanted.module, wanted.bank
    key = tensor_rt.build_key(folder, module, tensor_rt.gpu_identity(), bank)
    plan = read_own_build(folder, key, wanted.cache, tensor_rt.PLAN_NAME)
    return tensor_rt.open_engine(folder, module, plan, bank=bank, lane=wanted.lane)


def _tensorrt_rtx(wanted: _Wanted) -> Engine:
    from . import tensor_rt_rtx

    folder, module, bank = wanted.folder, wanted.module, wanted.bank
    device = tensor_rt_rtx.gpu_device()
    key = tensor_rt_rtx.build_key(folder, module, device, bank, wanted.precision)
    build = find_build(folder, key, wanted.cache)
    return tensor_rt_rtx.open_engine(
        folder, module, build, bank=bank, precision=wanted.precision, lane=wanted.lane
    )


def _timed(wanted: _Wanted) -> Engine:
    from .timed import load_timed

    return load_timed(wanted.folder, wanted.module, wanted.timing, bank=wanted.bank)


def _torch(wanted: _Wanted) -> Engine:
    from .torch_eager import TorchEngine

    return TorchEngine(wanted.folder, wanted.module, threads=wanted.threads, bank=wanted.bank)


def _triton_server(wanted: _Wanted) -> Engine:
    if wanted.remote is None or not wanted.remote.address:
        raise ModelNotReady(
            "backend triton_server needs SANGSANG_TRITON_SERVER_ADDRESS, `host:port`"
        )
    from .triton_server import TritonServerEngine

    return TritonServerEngine(wanted.folder, wanted.module, wanted.remote, bank=wanted.bank)


# Each imports its backend's packages when it is called, and not before.
_LOADERS: Mapping[str, Callable[[_Wanted], Engine]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "tensorrt": _tensorrt,
    "tensorrt_rtx": _tensorrt_rtx,
    "timed": _timed,
    "torch": _torch,
    "triton_server": _triton_server,
}
BACKENDS = tuple(_LOADERS)


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
    raise _not_built(folder, key, problems)


def read_own_build(
    folder: ModelFolder, key: BuildKey, cache: EngineCache | Path | None, name: str
) -> bytes:
    """Returns a file of a module's build that is run as code: from our own cache alone.

    What lies beside a model came with it, from anywhere.

    Raises:
        ModelNotReady: there is no sound build of this key in the cache.
    """
    try:
        return resolve_cache(cache).read(key, name)
    except (NotBuilt, DamagedBuild) as exc:
        raise _not_built(folder, key, [exc.message]) from exc


def _not_built(folder: ModelFolder, key: BuildKey, problems: list[str]) -> ModelNotReady:
    return ModelNotReady(
        f"{key.module} of {folder.model_id} is not built for {key.backend} "
        f"({'; '.join(problems)}); run `sangsang build {folder.path}{_options(key)}`"
    )


def _not_installed(backend: str, error: ImportError) -> ModelNotReady:
    missing = isinstance(error, ModuleNotFoundError)
    what = f"{error.name}, which is not installed" if missing else f"what cannot load: {error}"
    extra = _EXTRAS.get(backend, "cpu")
    return ModelNotReady(
        f"backend {backend} needs {what}; "
        f'install the extra: pip install "sangsang[{extra}]", or take another backend'
    )


def _options(key: BuildKey) -> str:
    # What is not a backend of its own, as the sampler tables, is built with any.
    if key.backend not in BACKENDS or key.backend == BACKENDS[0]:
        return ""
    return f" --backend {key.backend}{build_option(key.precision_name)}"


def resolve_cache(cache: EngineCache | Path | None) -> EngineCache:
    """Returns the cache that an argument means: itself, the one at a path, or the user's."""
    return cache if isinstance(cache, EngineCache) else EngineCache(cache or DEFAULT_CACHE_PATH)
