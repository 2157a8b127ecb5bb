"""Builds engines of TensorRT-RTX from exported graphs: f16, no GPU needed, each in its own process.

The graph is converted once for a module, compared with ONNX Runtime's f32, and written with its
weights to a folder that goes when all targets are built.
"""

import json
import signal
import subprocess
import sys
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from ..engines.adapter_bank import SCALE_NAME, AdapterBank
from ..engines.onnx_runtime import OnnxRuntimeEngine, session_options
from ..engines.tensor_rt_rtx import ENGINE_NAME, TARGETS, bank_shapes, input_sizes
from ..engines.weightless import GRAPH_NAME, read_weights
from ..errors import ModelNotReady
from ..models.folder import ModelFolder, ModuleName
from .export import example_inputs
from .failures import CheckReport, ExportFailed
from .half_precision import half_of, to_half_precision
from .tensor_rt_child import MAGIC

# Largest difference allowed between the converted graph and the f32 engine, both in ONNX Runtime,
# as a share of the largest output (at least 1). f16 keeps 11 bits, and networks lose a few.
TOLERANCE = 2e-2
# Rows and sides of the comparison, in the smallest sizes that the module takes.
_SHAPES: tuple[tuple[int, tuple[int, int]], ...] = ((1, (4, 4)), (3, (3, 5)))
_CHILD = f"{__package__}.tensor_rt_child"
# Of what a failed build says, the end: TensorRT names the cause last.
_SAID_LINES = 6


class EngineBuilder:
    """Builds the engines of one module. Use it in a `with` block: it keeps the converted graph.

    Args:
        folder: the model.
        module: which of its modules.
        graph: folder of the module's build for ONNX Runtime.
        bank: the model's adapters, if the module takes them.
    """

    def __init__(
        self, folder: ModelFolder, module: ModuleName, graph: Path, bank: AdapterBank | None
    ) -> None:
        self._folder = folder
        self._module: ModuleName = module
        self._graph = graph
        self._bank = bank
        self._temporary = tempfile.TemporaryDirectory(prefix="sangsang-")

    def __enter__(self) -> "EngineBuilder":
        return self

    def __exit__(self, *_: object) -> None:
        self._temporary.cleanup()

    @cached_property
    def check(self) -> CheckReport:
        """How the converted graph compares with f32; converts it, once.

        Raises:
            ModelNotReady: it cannot be converted, or computes something else in f16.
        """
        folder, module = self._folder, self._module
        try:
            model = to_half_precision(
                onnx.load(self._graph / GRAPH_NAME, load_external_data=False),
                read_weights(self._graph / GRAPH_NAME, folder.weights(module)),
                bank_shapes(self._bank),
            )
            ir.save(model, self._converted, external_data="weights.bin")
            return CheckReport(self._difference(), None)
        except ExportFailed as exc:
            raise ModelNotReady(f"{folder.model_id}: {folder.label(module)}: {exc}") from exc

    def build(self, target: Path, device: str) -> None:
        """Writes the engine for a GPU into a folder.

        Args:
            target: the folder.
            device: one of `TARGETS`.

        Raises:
            ModelNotReady: TensorRT-RTX cannot build it; the message has what it said.
        """
        _ = self.check
        engine = target / ENGINE_NAME
        sizes = input_sizes(self._folder, self._module, self._bank)
        task = {
            "graph": str(self._converted),
            "engine": str(engine),
            "compute_capability": TARGETS[device],
            "profile": sizes,
        }
        command = [sys.executable, "-m", _CHILD, json.dumps(task)]
        # What it runs are our own module and files.
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        what = f"{self._folder.label(self._module)} of {self._folder.model_id} for {device}"
        if done.returncode != 0:
            raise ModelNotReady(f"TensorRT-RTX cannot build {what}: {_reason(done)}")
        if not engine.is_file() or not engine.read_bytes().startswith(MAGIC):
            raise ModelNotReady(f"TensorRT-RTX left no engine of {what}; build it again")

    @property
    def _converted(self) -> Path:
        return Path(self._temporary.name) / GRAPH_NAME

    def _difference(self) -> float:
        reference = OnnxRuntimeEngine(self._folder, self._module, self._graph, bank=self._bank)
        session = ort.InferenceSession(
            str(self._converted), session_options(1), providers=["CPUExecutionProvider"]
        )
        arrays = {} if self._bank is None else self._bank.arrays
        own = {name: _as_engine_takes(array) for name, array in arrays.items()}
        largest = 0.0
        for seed, (rows, sides) in enumerate(_SHAPES):
            inputs: dict[str, Any] = example_inputs(self._folder, self._module, rows, sides, seed)
            if self._bank is not None:
                random = np.random.default_rng(seed)
                slots = len(self._bank.slot_names)
                inputs[SCALE_NAME] = random.uniform(-1, 2, (rows, slots)).astype(np.float32)
            expected = reference.infer(inputs)[reference.outputs[0].name]
            [actual] = session.run(None, {**inputs, **own})
            largest = max(largest, _compare(expected, np.asarray(actual)))
        reference.close()
        return largest


def _as_engine_takes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return half_of(array) if array.dtype.kind == "f" else array


def _compare(expected: np.ndarray[Any, Any], actual: np.ndarray[Any, Any]) -> float:
    # NaN anywhere makes the result NaN, which no comparison lets pass.
    difference = float(np.abs(expected - actual).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise ExportFailed(f"f16 differs from f32 by {difference:.2e}: this model needs f32")
    return difference


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        hint = "; most likely memory ran out" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}; build it again"
    return "\n".join(done.stderr.strip().splitlines()[-_SAID_LINES:])
