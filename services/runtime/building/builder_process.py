"""Runs the builder of TensorRT or TensorRT-RTX in a process of its own, and says how it ended.

Some failures of it end the process, and a failed build spoils the next one in its process.
"""

import json
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from ..engines.tensor_rt_sizes import Profile
from .failures import ExportFailed

_CHILD = f"{__package__}.tensor_rt_child"
# Of what a failed build says, the end: TensorRT names the cause last.
_SAID_LINES = 6


@dataclass(frozen=True, slots=True)
class BuildTask:
    """What is built. It travels to the process as JSON.

    Attributes:
        package: the library's module, `tensorrt` or `tensorrt_rtx`.
        graph: ONNX file, every edge of the type that it is computed in.
        engine: file to write.
        profiles: sizes of each input whose sizes are not fixed in the graph.
        compute_capability: TensorRT-RTX's name of the GPU to build for; None builds for the GPU
            that is there.
        plugins: our kernels to register, by the names of their nodes.
        plugin_nodes: nodes of the graph that have to become such a kernel.
        architecture: of the GPU that the kernels are compiled for, e.g. 90.
        timing_cache: file with what earlier builds measured, read and added to; None for none.
        aux_streams: streams that one execution may use beside its own; None leaves it to the
            library.
    """

    package: str
    graph: str
    engine: str
    profiles: tuple[Profile, ...]
    compute_capability: str | None = None
    plugins: tuple[str, ...] = ()
    plugin_nodes: int = 0
    architecture: int = 0
    timing_cache: str | None = None
    aux_streams: int | None = None


def run_builder(task: BuildTask) -> None:
    """Builds an engine.

    Raises:
        ExportFailed: the library does not take the graph, or its process was ended.
    """
    command = [sys.executable, "-m", _CHILD, json.dumps(asdict(task))]
    # It runs our own module.
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        hint = ", most likely for want of memory" if name == "SIGKILL" else ""
        raise ExportFailed(f"its process was ended by {name}{hint}; build it again")
    if done.returncode > 0:
        raise ExportFailed("\n".join(done.stderr.strip().splitlines()[-_SAID_LINES:]))
    engine = Path(task.engine)
    if not engine.is_file() or not engine.stat().st_size:
        raise ExportFailed("its process left no engine; build it again")
