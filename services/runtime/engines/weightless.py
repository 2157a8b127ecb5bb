"""Which weights a graph leaves out: listed beside it, so that serving needs no `onnx`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelNotReady
from ..models.weights import WeightStore

GRAPH_NAME = "graph.onnx"
WEIGHT_LIST_NAME = "weights.json"


def write_weight_list(graph: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Writes the list of a graph's weights beside it: the shape of each, by its stored name."""
    lines = [f"{json.dumps(name)}: {json.dumps(list(shape))}" for name, shape in shapes.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (graph.parent / WEIGHT_LIST_NAME).write_text(text, "utf-8")


def read_weights(graph: Path, store: WeightStore) -> dict[str, NDArray[Any]]:
    """Returns the weights that a graph needs: f32, C-contiguous, in the graph's shapes.

    Raises:
        ModelNotReady: the list beside the graph is damaged, or the model's weights do not fit it.
    """
    try:
        entries: object = json.loads((graph.parent / WEIGHT_LIST_NAME).read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise ModelNotReady(f"the list of weights of {graph} cannot be read: {exc}") from exc
    if not isinstance(entries, dict):
        raise ModelNotReady(f"the list of weights of {graph} is not a JSON object")
    weights: dict[str, NDArray[Any]] = {}
    for name, shape in cast(dict[str, list[int]], entries).items():
        try:
            # Old VAEs store as 1x1 convolutions what is a matrix in the graph.
            weights[name] = np.ascontiguousarray(store.read(name).reshape(shape))
        except (KeyError, ValueError) as exc:
            raise ModelNotReady(f"{graph} does not fit the model's {name}: {exc}") from exc
    return weights
