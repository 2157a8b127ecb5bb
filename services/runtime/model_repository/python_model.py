"""An engine inside Triton's Python backend: the whole graph on ONNX Runtime.

Copied into the repository as it is. It runs in the server's Python, where nothing of Sangsang is:
onnxruntime and numpy are all that it needs there.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Before it is loaded: it would report to its makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]


class TritonPythonModel:
    """What the backend makes for each instance, and calls, by these names."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Loads the graph that lies beside this file."""
        config = json.loads(args["model_config"])
        parameters = {k: v["string_value"] for k, v in config["parameters"].items()}
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(parameters["intra_op_thread_count"])
        options.inter_op_num_threads = int(parameters["inter_op_thread_count"])
        # Spinning threads of one model would starve its neighbours on the same cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        graph = Path(args["model_repository"], args["model_version"], "model.onnx", "model.onnx")
        self._session = ort.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = config["input"]
        self._outputs = [tensor["name"] for tensor in config["output"]]
        self._has_batch = config["max_batch_size"] > 0

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Returns a response to each request, which is a batch already."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        given = {
            tensor["name"]: pb_utils.get_input_tensor_by_name(request, tensor["name"])
            for tensor in self._inputs
        }
        feeds = {name: tensor.as_numpy() for name, tensor in given.items() if tensor is not None}
        rows = len(next(iter(feeds.values())))
        for tensor in self._inputs:
            if tensor["name"] not in feeds:
                # Only the adapters' scales may be left out, which means none.
                sizes = tensor["dims"] if self._has_batch else tensor["dims"][1:]
                feeds[tensor["name"]] = np.zeros([rows, *map(int, sizes)], np.float32)
        values = self._session.run(self._outputs, feeds)
        tensors = [pb_utils.Tensor(n, v) for n, v in zip(self._outputs, values, strict=True)]
        return pb_utils.InferenceResponse(output_tensors=tensors)
