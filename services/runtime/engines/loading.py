"""Finds the build of a module and loads it: beside the model first, then in the cache."""

from pathlib import Path

from ..errors import ModelNotReady
from ..models.folder import ModelFolder, ModuleName
from .adapter_bank import AdapterBank, open_bank
from .cache import DEFAULT_CACHE_PATH, BuildKey, DamagedBuild, EngineCache, NotBuilt
from .engine import Engine
from .execution_lane import ExecutionLane
from .remote_server import RemoteServer
from .timing import Timing

BACKENDS = (
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
    "timed",
    "torch",
    "triton_server",
)

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
        cache: where builds lie that are not beside the model; None takes the user's cache.
        remote: who runs the engine, for `triton_server`.
        timing: what is held and for how long, for `timed`.
        lane: where on a GPU `tensorrt` and `tensorrt_rtx` run; None makes a lane of its own.

    Raises:
        ModelNotReady: the module has not been built for this backend, its build is damaged or
            from other weights, or the backend is unknown or not installed.
        StageUnavailable: the server that runs the engine cannot be reached.
    """
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
        if backend == "tensorrt":
            from . import tensor_rt

            gpu, bank = tensor_rt.gpu_identity(), _bank(folder, module)
            key = tensor_rt.build_key(folder, module, gpu, bank)
            plan = read_own_build(folder, key, cache, tensor_rt.PLAN_NAME)
            return tensor_rt.open_engine(folder, module, plan, bank=bank, lane=lane)
        if backend == "tensorrt_rtx":
            from . import tensor_rt_rtx

            bank, device = _bank(folder, module), tensor_rt_rtx.gpu_device()
            key = tensor_rt_rtx.build_key(folder, module, device, bank)
            build = find_build(folder, key, cache)
            return tensor_rt_rtx.open_engine(folder, module, build, bank=bank, lane=lane)
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
        raise _not_installed(backend, exc) from exc
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
        f"({'; '.join(problems)}); run `sangsang build {folder.path}{_option(key.backend)}`"
    )


def _not_installed(backend: str, error: ImportError) -> ModelNotReady:
    missing = isinstance(error, ModuleNotFoundError)
    what = f"{error.name}, which is not installed" if missing else f"what cannot load: {error}"
    extra = _EXTRAS.get(backend, "cpu")
    return ModelNotReady(
        f"backend {backend} needs {what}; "
        f'install the extra: pip install "sangsang[{extra}]", or take another backend'
    )


def _option(backend: str) -> str:
    # What is not a backend of its own, as the sampler tables, is built with any.
    other = backend in BACKENDS and backend != BACKENDS[0]
    return f" --backend {backend}" if other else ""


def resolve_cache(cache: EngineCache | Path | None) -> EngineCache:
    """Returns the cache that an argument means: itself, the one at a path, or the user's."""
    return cache if isinstance(cache, EngineCache) else EngineCache(cache or DEFAULT_CACHE_PATH)
