"""Engines of TensorRT-RTX: no GPU is needed, so one machine builds them for several kinds."""

from pathlib import Path

from ..engines.cache import BuildKey
from ..engines.tensor_rt_rtx import BACKEND, BATCH_ROWS, ENGINE_NAME, TARGETS, TITLE, build_key
from ..engines.tensor_rt_sizes import range_profile
from .builder_process import BuildTask
from .engine_builder import EngineBuilder


class TensorRtRtxBuilder(EngineBuilder):
    """Builds the engines of one module; devices are those of `TARGETS`."""

    title = TITLE
    backend = BACKEND

    def key(self, device: str) -> BuildKey:
        return build_key(self._folder, self._module, device, self._bank, self._precision)

    def task(self, graph: Path, target: Path, device: str) -> BuildTask:
        return BuildTask(
            package="tensorrt_rtx",
            graph=str(graph),
            engine=str(target / ENGINE_NAME),
            profiles=(range_profile(self._folder, self._module, self._bank, BATCH_ROWS),),
            compute_capability=TARGETS[device],
        )
