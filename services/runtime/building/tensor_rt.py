"""Engines of TensorRT, built on the GPU that will run them, with our kernels inside.

What an engine computes there is compared with ONNX Runtime before it is kept: TensorRT chooses its
kernels by time, and ours have been run nowhere else.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..engines.adapter_bank import AdapterBank
from ..engines.cache import BuildKey, EngineCache
from ..engines.onnx_runtime import OnnxRuntimeEngine
from ..engines.tensor_rt import (
    BACKEND,
    BUCKETS,
    PLAN_NAME,
    PLUGINS,
    TITLE,
    build_key,
    gpu_identity,
    library,
    open_engine,
)
from ..engines.tensor_rt_sizes import bucket_profiles, signature_of
from ..errors import StageFailed
from ..models.folder import ModelFolder, ModuleName
from .builder_process import BuildTask
from .engine_builder import EngineBuilder
from .failures import ExportFailed
from .fusing.fuse import PATTERNS
from .half_checking import example_calls, require_near


class TensorRtBuilder(EngineBuilder):
    """Builds the engine of one module for the GPU of this process.

    Args:
        folder: the model.
        module: which of its modules.
        graph: folder of the module's build for ONNX Runtime.
        bank: the model's adapters, if the module takes them.
        cache: where engines lie, and what is measured on the way.
        plugins: our kernels in it, by the names of their nodes.

    Raises:
        ModelNotReady: TensorRT is not installed, or there is no GPU.
    """

    title = TITLE
    backend = BACKEND

    def __init__(
        self,
        folder: ModelFolder,
        module: ModuleName,
        graph: Path,
        bank: AdapterBank | None,
        cache: EngineCache,
        plugins: Sequence[str] = PLUGINS,
    ) -> None:
        patterns = tuple(pattern for pattern in PATTERNS if pattern.name in plugins)
        super().__init__(folder, module, graph, bank, cache, patterns)
        self._plugins = tuple(plugins)
        self._gpu = gpu_identity()

    def key(self, device: str) -> BuildKey:
        del device
        return build_key(self._folder, self._module, self._gpu, self._bank, self._plugins)

    def task(self, graph: Path, target: Path, device: str) -> BuildTask:
        del device
        return BuildTask(
            package="tensorrt",
            graph=str(graph),
            engine=str(target / PLAN_NAME),
            profiles=bucket_profiles(self._folder, self._module, self._bank, BUCKETS),
            plugins=self._plugins,
            plugin_nodes=self.fused_count,
            architecture=self._gpu.architecture,
            timing_cache=str(self._timing_cache()),
            # Two lanes share the GPU: each keeps to one stream.
            aux_streams=0,
        )

    def verify(self, target: Path) -> float:
        """Runs every profile, plain and as a CUDA graph; returns the difference from f32.

        Raises:
            ExportFailed: it computes something else.
        """
        folder, module, bank = self._folder, self._module, self._bank
        content = (target / PLAN_NAME).read_bytes()
        engine = open_engine(folder, module, content, bank=bank)
        threads = os.cpu_count() or 1
        reference = OnnxRuntimeEngine(folder, module, self._build, threads=threads, bank=bank)
        name, differences = reference.outputs[0].name, [0.0]
        try:
            for pair in example_calls(folder, module, bank, [(2, one) for one in self._sides()]):
                expected = reference.infer(pair)[name]
                for rows in BUCKETS:
                    # The CPU computes two rows, the GPU takes them in turns.
                    turns = np.arange(rows) % 2
                    call = {key: array[turns] for key, array in pair.items()}
                    # Kernel by kernel, and then as a captured graph.
                    differences += [
                        require_near(expected[turns], engine.infer(call)[name]) for _ in range(2)
                    ]
        except StageFailed as exc:
            raise ExportFailed(exc.message) from exc
        finally:
            engine.close()
            reference.close()
        return max(differences)

    def _sides(self) -> list[tuple[int, int]]:
        """The usual picture's sides and, if there are others, the smallest's."""
        taken = signature_of(self._folder, self._module, self._bank)
        name, multiple = taken.inputs[0].name, taken.side_multiple
        profiles = bucket_profiles(self._folder, self._module, self._bank, BUCKETS[:1])
        found = [profile[name][0][2:] or (multiple, multiple) for profile in profiles]
        return [(height // multiple, width // multiple) for height, width in found]

    def _timing_cache(self) -> Path:
        of = f"{library().__version__} {self._gpu.describe()}"
        digest = hashlib.sha256(of.encode()).hexdigest()
        return self._cache.root / BACKEND / f"timing-{digest[:20]}.cache"
