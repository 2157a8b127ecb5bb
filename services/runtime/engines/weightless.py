"""Which weights a graph leaves out: names listed beside it, so that serving needs no `onnx`."""

import json
from pathlib import Path
from typing import cast

from ..errors import ModelNotReady

GRAPH_NAME = "graph.onnx"
WEIGHT_NAMES_NAME = "weights.json"


def read_weight_names(graph: Path) -> list[str]:
    """Returns the state-dict names of the weights that a graph needs, in its order.

    Raises:
        ModelNotReady: the list beside the graph is missing or damaged.
    """
    try:
        names: object = json.loads((graph.parent / WEIGHT_NAMES_NAME).read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise ModelNotReady(f"the list of weights of {graph} cannot be read: {exc}") from exc
    if not isinstance(names, list):
        raise ModelNotReady(f"the list of weights of {graph} is not a list")
    return [str(name) for name in cast(list[object], names)]


def write_weight_names(graph: Path, names: list[str]) -> None:
    """Writes the list that `read_weight_names` reads."""
    text = json.dumps(names, indent=0)
    (graph.parent / WEIGHT_NAMES_NAME).write_text(text + "\n", "utf-8")
