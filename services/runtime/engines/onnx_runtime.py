"""Engines on ONNX Runtime's CPU provider: the embedded default.

The graph on disk holds no weights. They are read from the model's own safetensors files, widened
to f32 and handed to the session before it optimises, so a model's weights exist once on disk
whatever they are stored in.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ModelNotReady, StageFailed
from ..models.adapters import adapted_layers
from ..models.folder import ModelFolder, ModuleName
from ..models.weights import WeightStore
from .adapter_bank import AdapterBank, accompany_adapted
from .cache import BuildKey
from .engine import Array, TensorSpec
from .onnx_runtime_import import ort
from .signatures import Signature, signature
from .validation import check_inputs
from .weightless import GRAPH_NAME, read_weights

BACKEND = "onnxruntime"
# The graph is portable, so its key holds the version of our export and not ONNX Runtime's: a
# graph that ships beside a model has to outlive the runtime it was exported with.
GRAPH_VERSION = "opset21-3"
BANK_VERSION = "4"


def build_key(folder: ModelFolder, module: ModuleName) -> BuildKey:
    """Returns the key under which this backend's build of a module lies.

    Raises:
        ModelNotReady: an adapter of the model does not fit its UNet.
    """
    digest, label = folder.digest(module), folder.label(module)
    layers = adapted_layers(folder) if module == "unet" else ()
    if not layers:
        return BuildKey(label, digest, BACKEND, GRAPH_VERSION)
    # Which layers are adapted decides the graph; the adapters' ranks and values do not.
    named = hashlib.sha256("\n".join(layers).encode()).hexdigest()
    profile = f"dynamic, bank {BANK_VERSION} of {named}"
    return BuildKey(label, digest, BACKEND, GRAPH_VERSION, profile=profile)


class OnnxRuntimeEngine:
    """One module in an ONNX Runtime session. See `Engine` for the attributes."""

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
        """Loads a build.

        Args:
            folder: the model, whose weights fill the graph.
            module: which module it is.
            build: folder with the graph.
            threads: threads of one `infer`, at least 1.
            bank: the adapters, if the graph was built for some.

        Raises:
            ModelNotReady: the graph does not fit the weights or cannot be loaded.
        """
        self.name = folder.label(module)
        self.digest = folder.digest(module)
        plain = signature(folder, module)
        self._signature = plain if bank is None else bank.signature(plain)
        # ONNX Runtime reads these where they are: 400 MB as an input take as long as 1 MB.
        self._bank: Mapping[str, Array] = {} if bank is None else bank.arrays
        self._session: ort.InferenceSession | None = _open_session(
            build / GRAPH_NAME, folder.weights(module), threads
        )
        _check_names(self._session, self._signature, list(self._bank), build)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._signature.outputs

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every output for a batch; see `Engine.infer`."""
        session = self._session
        if session is None:
            raise StageFailed(f"{self.name} has been closed")
        feeds = check_inputs(self._signature, inputs)
        batch = len(feeds[self.inputs[0].name])
        if self._bank:
            feeds = accompany_adapted(feeds, self._signature)
        names = [spec.name for spec in self.outputs]
        try:
            values: Sequence[Any] = session.run(names, {**feeds, **self._bank})
        # ONNX Runtime's exceptions have no common base of their own.
        except Exception as exc:
            raise StageFailed(f"{self.name} failed in ONNX Runtime: {exc}") from exc
        return {name: value[:batch] for name, value in zip(names, values, strict=True)}

    def close(self) -> None:
        """Frees the session."""
        self._session = None
        self._bank = {}


def _open_session(graph: Path, store: WeightStore, threads: int) -> ort.InferenceSession:
    options = session_options(threads)
    weights = read_weights(graph, store)
    # The session copies them: nothing here outlives this function.
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
    try:
        options.add_external_initializers(list(weights), values)
        return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as exc:
        raise ModelNotReady(
            f"ONNX Runtime {ort.__version__} cannot load {graph}: {exc}; "
            "delete it and run `sangsang build` again"
        ) from exc


def session_options(threads: int) -> ort.SessionOptions:
    """Returns the options of every session: `threads` for one call, none shared, none spinning.

    Spinning threads of one session starve its neighbours on the same cores: two lanes of two
    spinning threads each ran at half the speed of the same lanes without.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _check_names(
    session: ort.InferenceSession, expected: Signature, bank: list[str], build: Path
) -> None:
    inputs = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]
    wanted = [*(spec.name for spec in expected.inputs), *bank]
    if inputs != wanted or outputs != [spec.name for spec in expected.outputs]:
        raise ModelNotReady(f"{build} computes {inputs} -> {outputs}, which is another module")
