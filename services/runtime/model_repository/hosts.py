"""The backends of Triton that can host a model's engines, and what each is given.

`onnxruntime` is Triton's own backend, which NVIDIA's images have. `python` runs the same graph in
the same runtime inside Triton's Python backend, for servers without the former. `tensorrt` gets
the engine that `sangsang build --backend tensorrt` built; it has never been run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from ..engines.adapter_bank import AdapterBank, open_bank
from ..engines.cache import EngineCache
from ..engines.engine import TensorSpec
from ..engines.loading import find_build, read_own_build
from ..engines.signatures import Signature, signature
from ..engines.tensor_rt_sizes import bucket_profiles
from ..engines.weightless import GRAPH_NAME, read_weights
from ..errors import ModelNotReady
from ..models.folder import ModelFolder, ModuleName
from ..open_inference.descriptions import ROW_COUNTS_NAME
from .hosted_module import HostedModule

_MODEL_SOURCE = "python_model.py"
# What the backends look for.
_PLAN_NAME, _SCRIPT_NAME = "model.plan", "model.py"
# As our own sessions: one thread for a call, none that spin.
_SESSION = {"intra_op_thread_count": "1", "inter_op_thread_count": "1", "execution_mode": "0"}


@dataclass(frozen=True, slots=True)
class _Part:
    """A module with its adapters and where builds lie."""

    folder: ModelFolder
    module: ModuleName
    bank: AdapterBank | None
    cache: EngineCache

    @property
    def name(self) -> str:
        return f"{self.folder.model_id}.{self.folder.label(self.module)}"

    @property
    def signature(self) -> Signature:
        plain = signature(self.folder, self.module)
        return plain if self.bank is None else self.bank.signature(plain)


def host(
    folder: ModelFolder, module: ModuleName, *, backend: str, cache: EngineCache
) -> HostedModule:
    """Returns a module as a backend of Triton hosts it; nothing is written yet.

    Args:
        folder: the model.
        module: which of its modules.
        backend: one of `HOSTS`.
        cache: where builds lie that are not beside the model.

    Raises:
        ModelNotReady: the module has not been built for the backend, there is no such backend, or
            a package that it needs is not installed.
    """
    find = _HOSTS.get(backend)
    if find is None:
        raise ModelNotReady(
            f"Triton has no backend {backend!r} for a model's engines; there are {', '.join(HOSTS)}"
        )
    bank = open_bank(folder) if module == "unet" else None
    try:
        return find(_Part(folder, module, bank, cache))
    except ImportError as exc:
        extra = "gpu,tensorrt" if backend == "tensorrt" else "build"
        raise ModelNotReady(
            f"writing engines for Triton's {backend} needs {exc.name}, which is not installed; "
            f'install the extra: pip install "sangsang[{extra}]"'
        ) from exc


def _onnxruntime(part: _Part) -> HostedModule:
    from ..engines import onnx_runtime
    from .whole_graph import MODEL_NAME, write_whole_graph

    folder, module = part.folder, part.module
    graph = find_build(folder, onnx_runtime.build_key(folder, module), part.cache) / GRAPH_NAME
    taken = part.signature

    def write(version: Path) -> None:
        # A graph of several files is a folder of the name that a single one has.
        target = version / MODEL_NAME
        target.mkdir()
        bank = {} if part.bank is None else part.bank.arrays
        weights = read_weights(graph, folder.weights(module))
        write_whole_graph(graph, weights, bank, target)

    return HostedModule(
        name=part.name,
        backend="onnxruntime",
        platform="onnxruntime_onnx",
        file_name=MODEL_NAME,
        kind="KIND_CPU",
        digest=folder.digest(module),
        precision=onnx_runtime.OnnxRuntimeEngine.precision,
        inputs=tuple(map(_required, taken.inputs)),
        outputs=taken.outputs,
        write=write,
        parameters=_SESSION,
    )


def _python(part: _Part) -> HostedModule:
    graph = _onnxruntime(part)

    def write(version: Path) -> None:
        graph.write(version)
        source = resources.files(__package__ or "").joinpath(_MODEL_SOURCE).read_text("utf-8")
        (version / _SCRIPT_NAME).write_text(source, "utf-8")

    return replace(
        graph,
        backend="python",
        platform="",
        file_name=_SCRIPT_NAME,
        inputs=part.signature.inputs,
        write=write,
    )


def _tensorrt(part: _Part) -> HostedModule:
    from ..engines import tensor_rt

    folder, module = part.folder, part.module
    if part.bank is not None:
        raise ModelNotReady(
            f"{part.name} has adapters, which its TensorRT engine takes as inputs of each call and "
            "Triton would want from the caller; host this model with --backend onnxruntime or "
            "python, or serve its adapter as a UNet of its own"
        )
    key = tensor_rt.build_key(folder, module, tensor_rt.gpu_identity(), part.bank)
    plan = read_own_build(folder, key, part.cache, tensor_rt.PLAN_NAME)
    profiles = bucket_profiles(folder, module, part.bank, tensor_rt.BUCKETS)
    taken = part.signature

    def write(version: Path) -> None:
        (version / _PLAN_NAME).write_bytes(plan)

    return HostedModule(
        name=part.name,
        backend="tensorrt",
        platform="tensorrt_plan",
        file_name=_PLAN_NAME,
        kind="KIND_GPU",
        digest=folder.digest(module),
        precision=key.precision_name,
        inputs=taken.inputs,
        outputs=taken.outputs,
        write=write,
        parameters={ROW_COUNTS_NAME: ",".join(map(str, tensor_rt.BUCKETS))},
        profiles=range(len(profiles)),
    )


def _required(spec: TensorSpec) -> TensorSpec:
    # A graph that Triton runs itself has no zeros for what is left out; our engines leave out none.
    return replace(spec, optional=False)


_HOSTS: Mapping[str, Callable[[_Part], HostedModule]] = {
    "onnxruntime": _onnxruntime,
    "python": _python,
    "tensorrt": _tensorrt,
}
HOSTS = tuple(_HOSTS)
