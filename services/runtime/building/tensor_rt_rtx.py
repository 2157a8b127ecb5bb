"""Builds engines of TensorRT-RTX from exported graphs: no GPU needed, each in its own process.

The graph is converted once for a module, checked against f32, and written with its weights to a
folder that goes when all targets are built.
"""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import onnx_ir as ir

from ..engines.adapter_bank import AdapterBank
from ..engines.precisions import DEFAULT_PRECISION, Precision
from ..engines.tensor_rt_rtx import ENGINE_NAME, TARGETS, Sizes, input_sizes
from ..engines.weightless import GRAPH_NAME
from ..errors import ModelNotReady
from ..models.folder import ModelFolder, ModuleName
from .failures import CheckReport, ExportFailed
from .half_checking import check_half
from .quantizing.quantize import convert
from .quantizing.simulation import check_quantized
from .tensor_rt_child import MAGIC

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
        precision: what it computes in; only a UNet goes below f16.
    """

    def __init__(
        self,
        folder: ModelFolder,
        module: ModuleName,
        graph: Path,
        bank: AdapterBank | None,
        precision: Precision = DEFAULT_PRECISION,
    ) -> None:
        self._folder = folder
        self._module: ModuleName = module
        self._build = graph
        self._bank = bank
        self._precision: Precision = precision
        self._temporary = tempfile.TemporaryDirectory(prefix="sangsang-")

    def __enter__(self) -> "EngineBuilder":
        return self

    def __exit__(self, *_: object) -> None:
        self._temporary.cleanup()

    @cached_property
    def check(self) -> CheckReport:
        """How the converted graph compares with f32; converts it, once.

        Raises:
            ModelNotReady: it cannot be converted, or the precision is not enough for it.
        """
        folder, module, precision = self._folder, self._module, self._precision
        try:
            graph = convert(folder, module, self._build, self._bank, precision)
            ir.save(graph, self._converted, external_data="weights.bin")
            difference = self._compared()
        except ExportFailed as exc:
            what = f"{folder.label(module)} of {folder.model_id}"
            raise ModelNotReady(f"{what} cannot be served in {precision}: {exc}") from exc
        return CheckReport(difference, None)

    def _compared(self) -> float:
        if self._precision == DEFAULT_PRECISION:
            return check_half(self._folder, self._module, self._build, self._converted, self._bank)
        checked = check_quantized(self._folder, self._build, self._converted, self._bank)
        return checked.largest

    def build(self, target: Path, device: str) -> None:
        """Writes the engine for a GPU into a folder.

        Args:
            target: the folder.
            device: one of `TARGETS`.

        Raises:
            ModelNotReady: TensorRT-RTX cannot build it; the message has what it said.
        """
        _ = self.check
        sizes = input_sizes(self._folder, self._module, self._bank)
        try:
            build_engine(self._converted, target / ENGINE_NAME, device, sizes)
        except ExportFailed as exc:
            what = f"{self._folder.label(self._module)} of {self._folder.model_id}"
            raise ModelNotReady(f"TensorRT-RTX cannot build {what} for {device}: {exc}") from exc

    @property
    def _converted(self) -> Path:
        return Path(self._temporary.name) / GRAPH_NAME


def build_engine(graph: Path, engine: Path, device: str, sizes: Mapping[str, Sizes]) -> None:
    """Writes the engine of a graph, built in a process of its own.

    Args:
        graph: ONNX file, every edge of the type that it is computed in.
        engine: file to write.
        device: one of `TARGETS`.
        sizes: least, usual and most of each input whose sizes are not fixed in the graph.

    Raises:
        ExportFailed: TensorRT-RTX does not take the graph, or its process was ended.
    """
    task = {
        "graph": str(graph),
        "engine": str(engine),
        "compute_capability": TARGETS[device],
        "profile": sizes,
    }
    command = [sys.executable, "-m", _CHILD, json.dumps(task)]
    # It runs our own module.
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        hint = ", most likely for want of memory" if name == "SIGKILL" else ""
        raise ExportFailed(f"its process was ended by {name}{hint}; build it again")
    if done.returncode > 0:
        raise ExportFailed("\n".join(done.stderr.strip().splitlines()[-_SAID_LINES:]))
    if not engine.is_file() or not engine.read_bytes().startswith(MAGIC):
        raise ExportFailed("its process left no engine; build it again")
