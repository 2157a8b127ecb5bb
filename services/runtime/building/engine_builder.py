"""From an exported graph to engines of TensorRT and TensorRT-RTX: what both have in common.

The graph is converted to f16 or less once for a module, checked against f32, and written with its
weights to a folder that goes when all engines of it are built.
"""

from abc import ABC, abstractmethod
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

from ..engines.adapter_bank import AdapterBank
from ..engines.cache import BuildKey, EngineCache
from ..engines.precisions import DEFAULT_PRECISION, Precision
from ..engines.weightless import GRAPH_NAME
from ..errors import ModelNotReady
from ..models.folder import ModelFolder, ModuleName
from .builder_process import BuildTask, run_builder
from .failures import CheckReport, ExportFailed
from .fusing.fuse import DOMAIN
from .fusing.matching import Pattern
from .half_checking import check_half
from .quantizing.quantize import convert
from .quantizing.simulation import check_quantized


class EngineBuilder(ABC):
    """Builds the engines of one module. Use it in a `with` block: it keeps the converted graph.

    Attributes:
        title: the library's name, for messages.

    Args:
        folder: the model.
        module: which of its modules.
        graph: folder of the module's build for ONNX Runtime.
        bank: the model's adapters, if the module takes them.
        cache: where engines lie; the graph with its weights lies there for the while.
        patterns: what of the graph becomes nodes of ours.
        precision: what it computes in; only a UNet goes below f16.
    """

    title: ClassVar[str]
    backend: ClassVar[str]

    def __init__(
        self,
        folder: ModelFolder,
        module: ModuleName,
        graph: Path,
        bank: AdapterBank | None,
        cache: EngineCache,
        patterns: tuple[Pattern, ...] = (),
        precision: Precision = DEFAULT_PRECISION,
    ) -> None:
        self._folder = folder
        self._module: ModuleName = module
        self._build = graph
        self._bank = bank
        self._cache = cache
        self._patterns = patterns
        self._precision: Precision = precision
        self._stack = ExitStack()
        self._fused_count = 0

    def __enter__(self) -> "EngineBuilder":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @abstractmethod
    def key(self, device: str) -> BuildKey:
        """Returns the key of the engine for a GPU."""

    @abstractmethod
    def task(self, graph: Path, target: Path, device: str) -> BuildTask:
        """Returns what the library has to build from the converted graph, into a folder."""

    def verify(self, target: Path) -> float | None:
        """Runs a built engine, if it can run here; returns how far it is from f32.

        Raises:
            ExportFailed: it computes something else.
        """
        del target

    @property
    def fused_count(self) -> int:
        """Nodes of ours in the converted graph."""
        _ = self.check
        return self._fused_count

    @cached_property
    def check(self) -> CheckReport:
        """How the converted graph compares with f32; converts it, once.

        Raises:
            ModelNotReady: it cannot be converted, or the precision is not enough for it.
        """
        try:
            self._convert()
            difference = self._compare()
        except ExportFailed as exc:
            raise ModelNotReady(
                f"{self._what()} cannot be served in {self._precision}: {exc}"
            ) from exc
        return CheckReport(difference, None)

    def build(self, target: Path, device: str) -> CheckReport:
        """Writes the engine for a GPU into a folder; returns how it compares with f32.

        Args:
            target: the folder.
            device: the GPU.

        Raises:
            ModelNotReady: the library cannot build it, or it computes something else; the message
                has what the library said.
        """
        converted = self.check
        try:
            run_builder(self.task(self._converted, target, device))
            difference = self.verify(target)
        except ExportFailed as exc:
            raise ModelNotReady(
                f"{self.title} cannot build {self._what()} for {device}: {exc}"
            ) from exc
        return converted if difference is None else CheckReport(difference, None)

    def _convert(self) -> None:
        graph = convert(
            self._folder, self._module, self._build, self._bank, self._precision, self._patterns
        )
        self._fused_count = sum(node.domain == DOMAIN for node in graph.graph)
        ir.save(graph, self._converted, external_data="weights.bin")

    def _compare(self) -> float:
        folder, build, converted, bank = self._folder, self._build, self._converted, self._bank
        if self._precision == DEFAULT_PRECISION:
            return check_half(folder, self._module, build, converted, bank)
        return check_quantized(folder, build, converted, bank).largest

    def _what(self) -> str:
        return f"{self._folder.label(self._module)} of {self._folder.model_id}"

    @cached_property
    def _converted(self) -> Path:
        return self._stack.enter_context(self._cache.scratch(self.backend)) / GRAPH_NAME
