"""Engines on OpenVINO's CPU plugin: another compiler for the graphs that ONNX Runtime runs.

OpenVINO compiles a graph together with its weights for one processor. What it made lies in the
cache of builds under a key of its own and is compiled again when it is missing or damaged, so
`sangsang build` is needed only for the graph.
"""

import hashlib
import platform
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelNotReady, StageFailed
from ..models.folder import ModelFolder, ModuleName
from . import onnx_runtime
from .adapter_bank import AdapterBank
from .cache import BuildKey, DamagedBuild, EngineCache, NotBuilt
from .engine import Array, TensorSpec
from .openvino_graph import read_graph
from .openvino_import import ov
from .signatures import signature
from .validation import check_inputs
from .weightless import GRAPH_NAME, read_weights

BACKEND = "openvino"
_DEVICE = "CPU"
# Raise it when what is compiled changes and neither the graph nor OpenVINO does.
_FORMAT = 1
_BLOB_NAME = "model.blob"
_CPU_FACTS = ("flags", "Features")


def build_key(
    folder: ModelFolder, module: ModuleName, bank: AdapterBank | None, threads: int
) -> BuildKey:
    """Returns the key of what is compiled from a module's graph for this machine.

    Raises:
        ModelNotReady: an adapter of the model does not fit its UNet.
    """
    graph = onnx_runtime.build_key(folder, module)
    return BuildKey(
        graph.module,
        graph.module_digest,
        BACKEND,
        f"{_FORMAT}, graph {graph.backend_version}, OpenVINO {ov.get_version()}",
        device=_device(),
        profile=f"{graph.profile}, adapters {_digest(bank)}, {threads} threads",
    )


def compile_missing(
    folder: ModelFolder,
    module: ModuleName,
    graph_build: Path,
    cache: EngineCache,
    *,
    threads: int = 1,
    bank: AdapterBank | None = None,
) -> Path:
    """Returns the folder with a compiled module, after compiling it where that is needed.

    Args:
        folder: the model, whose weights are compiled in.
        module: which module it is.
        graph_build: folder with the graph.
        cache: where compiled modules lie.
        threads: threads of one `infer`, at least 1.
        bank: the adapters, if the graph was built for some.

    Raises:
        ModelNotReady: the graph cannot be compiled, or the cache cannot be written.
    """
    key = build_key(folder, module, bank, threads)
    if (found := _find(cache, key)) is not None:
        return found
    try:
        with cache.writing(key) as target:
            # Another process may have compiled it while this one waited for the lock.
            if (found := _find(cache, key)) is not None:
                return found
            _compile(folder, module, graph_build, target, threads, bank)
    except OSError as exc:
        raise ModelNotReady(
            f"{key.module} cannot be kept compiled for OpenVINO in {cache.root}: {exc}; "
            "set SANGSANG_CACHE_DIR to a folder that can be written"
        ) from exc
    return cache.find(key)


class OpenVinoEngine:
    """One module in OpenVINO. See `Engine` for the attributes.

    Args:
        folder: the model.
        module: which of its modules.
        build: folder of `compile_missing`.
        threads: as it was compiled for.
        bank: as it was compiled with.

    Raises:
        ModelNotReady: OpenVINO cannot load what was compiled.
    """

    backend = BACKEND
    precision = "f32"

    def __init__(
        self,
        folder: ModelFolder,
        module: ModuleName,
        build: Path,
        *,
        threads: int = 1,
        bank: AdapterBank | None = None,
    ) -> None:
        self.name = folder.label(module)
        self.digest = folder.digest(module)
        plain = signature(folder, module)
        self._signature = plain if bank is None else bank.signature(plain)
        # A request holds the tensors of one call.
        self._lock = threading.Lock()
        self._request: ov.InferRequest | None = _load(build / _BLOB_NAME, threads)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._signature.outputs

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every output for a batch; see `Engine.infer`."""
        feeds = check_inputs(self._signature, inputs)
        with self._lock:
            if self._request is None:
                raise StageFailed(f"{self.name} has been closed")
            try:
                values = self._request.infer(feeds, share_inputs=True)
                # The request's own memory is written again by the next call.
                return {spec.name: np.array(values[spec.name]) for spec in self.outputs}
            # OpenVINO's exceptions have no common base of their own.
            except Exception as exc:
                raise StageFailed(f"{self.name} failed in OpenVINO: {exc}") from exc

    def close(self) -> None:
        """Frees what was compiled."""
        with self._lock:
            self._request = None


def _find(cache: EngineCache, key: BuildKey) -> Path | None:
    try:
        return cache.find(key)
    except (NotBuilt, DamagedBuild):
        return None


def _compile(
    folder: ModelFolder,
    module: ModuleName,
    graph_build: Path,
    target: Path,
    threads: int,
    bank: AdapterBank | None,
) -> None:
    graph = graph_build / GRAPH_NAME
    constants = {**read_weights(graph, folder.weights(module)), **(bank.arrays if bank else {})}
    model = read_graph(_core(), graph, constants)
    try:
        compiled = _core().compile_model(model, _DEVICE, _properties(threads))
        (target / _BLOB_NAME).write_bytes(compiled.export_model().getvalue())
    except RuntimeError as exc:
        raise ModelNotReady(
            f"OpenVINO {ov.__version__} cannot compile {graph}: {exc}; take the backend onnxruntime"
        ) from exc


def _load(blob: Path, threads: int) -> ov.InferRequest:
    try:
        # Always from the file, also right after it was written: there is one way to load.
        content = ov.tensor_from_file(str(blob))
        compiled = _core().import_model(content, _DEVICE, _properties(threads))
        return compiled.create_infer_request()
    except RuntimeError as exc:
        raise ModelNotReady(
            f"OpenVINO {ov.__version__} cannot load {blob}: {exc}; delete its folder"
        ) from exc


def _properties(threads: int) -> dict[str, Any]:
    return {
        # OpenVINO would take bf16 by itself where the processor has it: slower here, and inexact.
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        # Every process would pin itself to the same first cores.
        "ENABLE_CPU_PINNING": False,
    }


@cache
def _core() -> ov.Core:
    return ov.Core()


@cache
def _device() -> str:
    """Returns a name for what the compiler is told of this machine's processor."""
    facts = [str(_core().get_property(_DEVICE, "FULL_DEVICE_NAME")), _instruction_sets()]
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:16]}"


def _instruction_sets() -> str:
    """Returns the line of the kernel on it; empty where there is none."""
    # Clouds give processors of several generations the same name.
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(_CPU_FACTS)), "")


def _digest(bank: AdapterBank | None) -> str:
    """Returns the sha256 of a bank's arrays, which are compiled in; `none` without a bank."""
    if bank is None:
        return "none"
    total = hashlib.sha256()
    for name, array in bank.arrays.items():
        total.update(f"{name} {array.shape} {array.dtype}\n".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
