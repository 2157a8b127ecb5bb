"""One build of TensorRT or TensorRT-RTX, in a process of its own. Run by `builder_process.py`.

Takes one argument, a `BuildTask` in JSON. Writes the engine, or says on the last lines of stderr
what went wrong.
"""

import ctypes
import json
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from .builder_process import BuildTask
from .timing_cache import TimingCache

# Linux' `prctl`: the signal that a process gets when the one that started it is gone.
_SET_PARENT_DEATH_SIGNAL = 1


class _Refused(Exception):
    """The library does not build it; the message says why."""


def main() -> int:
    """Builds one engine; returns the exit code."""
    _end_with_parent()
    task = BuildTask(**json.loads(sys.argv[1]))
    try:
        Path(task.engine).write_bytes(_build(task))
    except _Refused as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


def _build(task: BuildTask) -> bytes:
    # The packages have no types.
    trt: Any = import_module(task.package)
    if task.plugins:
        from ....kernels.compiling.catalogue import register_plugins

        register_plugins(task.plugins, task.architecture)
    logger = trt.Logger(trt.Logger.WARNING)
    builder = _builder(trt, logger)
    network = _parse(trt, builder, logger, task)
    config = builder.create_builder_config()
    if task.compute_capability:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, task.compute_capability), 0)
    if task.aux_streams is not None:
        config.max_aux_streams = task.aux_streams
    _add_profiles(builder, config, task)
    timings = TimingCache(Path(task.timing_cache), config) if task.timing_cache else None
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise _Refused("nothing was built; see what it says above")
    if timings:
        timings.keep()
    return bytes(engine)


def _builder(trt: Any, logger: Any) -> Any:
    try:
        return trt.Builder(logger)
    except TypeError as exc:
        # What the bindings make of a null pointer.
        raise _Refused(f"it does not start: no driver or GPU that it can use ({exc})") from exc


def _parse(trt: Any, builder: Any, logger: Any, task: BuildTask) -> Any:
    # Types are those of the graph: there is no other mode any more.
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(task.graph):
        errors = (parser.get_error(index) for index in range(parser.num_errors))
        reasons = "; ".join(map(_parse_error, errors))
        raise _Refused(f"{reasons}; serve the model with another backend, e.g. torch")
    if task.plugins:
        kinds = [network.get_layer(index).type for index in range(network.num_layers)]
        taken = kinds.count(trt.LayerType.PLUGIN_V3)
        if taken != task.plugin_nodes:
            raise _Refused(f"{taken} of {task.plugin_nodes} nodes became kernels of ours")
    return network


def _add_profiles(builder: Any, config: Any, task: BuildTask) -> None:
    for sizes in task.profiles:
        profile = builder.create_optimization_profile()
        for name, (least, usual, most) in sizes.items():
            profile.set_shape(name, least, usual, most)
        if sizes and config.add_optimization_profile(profile) < 0:
            raise _Refused(f"no engine takes the sizes {sizes}")


def _parse_error(error: Any) -> str:
    node = " ".join(filter(None, (error.node_operator(), error.node_name())))
    return f"{node} is not taken ({error.code().name}): {error.desc()}"


def _end_with_parent() -> None:
    """A build takes minutes and a GPU, and nobody would have its result."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
