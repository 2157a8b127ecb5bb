"""One build of TensorRT-RTX, in a process of its own. Run as a module by `tensor_rt_rtx.py`.

After one failed build every later one in f16 fails in the same process, and some failures end it;
so each build has its own. Takes one argument, in JSON: the `graph`'s file, the `engine`'s, the
`compute_capability`, and as `profile` the least, usual and most sizes of each input. Writes the
engine, or says on the last lines of stderr what went wrong.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

# Every serialised engine begins with these bytes.
MAGIC = b"vtrt"


def main() -> int:
    """Builds one engine; returns the exit code."""
    task = json.loads(sys.argv[1])
    # The package has no types.
    trt: Any = import_module("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    # Types are those of the graph: there is no other mode any more.
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(task["graph"]):
        errors = (parser.get_error(index) for index in range(parser.num_errors))
        return _failed("; ".join(map(_parse_error, errors)))
    config = builder.create_builder_config()
    _set_target(config, trt, task["compute_capability"])
    profile = builder.create_optimization_profile()
    for name, (least, usual, most) in task["profile"].items():
        profile.set_shape(name, least, usual, most)
    if task["profile"] and config.add_optimization_profile(profile) < 0:
        return _failed(f"no engine takes the sizes {task['profile']}")
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return _failed("TensorRT-RTX built nothing; see what it says above")
    Path(task["engine"]).write_bytes(bytes(engine))
    return 0


def _set_target(config: Any, trt: Any, name: str) -> None:
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)


def _parse_error(error: Any) -> str:
    node = " ".join(filter(None, (error.node_operator(), error.node_name())))
    return f"{node} is not taken ({error.code().name}): {error.desc()}"


def _failed(reason: str) -> int:
    sys.stderr.write(f"{reason}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
