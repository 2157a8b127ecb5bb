"""Which products of a UNet are computed in 8 bits, and which are not.

Taken are the products with a weight inside its blocks: convolutions, projections of attention and
feed-forward layers, which is where a UNet's multiplications are. Left alone is what the field
leaves alone, and for what reasons: see `README.md`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

# What has weights inside these is taken; everything before, after and beside them is not.
_BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.")
# Inside the blocks: one row a picture, where there is nothing to save.
_TIME_PROJECTION = ".time_emb_proj."
_PRODUCTS = ("Conv", "MatMul", "Gemm")


@dataclass(frozen=True, slots=True)
class Choice:
    """What is done with each layer that has a weight of its own.

    Attributes:
        taken: node of each product that is quantised, by its layer's name.
        left: why each other layer is not, by its name.
    """

    taken: Mapping[str, ir.Node]
    left: Mapping[str, str]


def choose_layers(graph: ir.Graph) -> Choice:
    """Returns what is to be quantised of a UNet's graph, whose weights have their stored names."""
    taken: dict[str, ir.Node] = {}
    left: dict[str, str] = {}
    for name, weight in graph.initializers.items():
        users = [use.node for use in weight.uses() if use.idx == 1]
        if not name.endswith(".weight") or not users or users[0].op_type not in _PRODUCTS:
            continue
        layer = name.removesuffix(".weight")
        reason = _reason(layer, users)
        if reason:
            left[layer] = reason
        else:
            taken[layer] = users[0]
    return Choice(taken, left)


def fold_transposes(graph: ir.Graph) -> None:
    """Turns the weights that a graph transposes, in place, so that its products take constants."""
    for weight in list(graph.initializers.values()):
        users = [use.node for use in weight.uses()]
        array = weight.const_value
        if len(users) != 1 or users[0].op_type != "Transpose" or array is None:
            continue
        node = users[0]
        turned = np.ascontiguousarray(array.numpy().T)
        if list(node.attributes.get_ints("perm", (1, 0))) != [1, 0] or turned.ndim != 2:
            continue
        weight.const_value = ir.tensor(turned, name=weight.name)
        weight.shape = ir.Shape(turned.shape)
        node.outputs[0].replace_all_uses_with(weight)
        graph.remove(node, safe=True)


def _reason(layer: str, users: list[ir.Node]) -> str | None:
    if not layer.startswith(_BLOCKS):
        if layer in ("conv_in", "conv_out"):
            return "first and last convolution: what they lose is in the picture"
        return "before the blocks: one row for each picture, and every block depends on it"
    if _TIME_PROJECTION in f"{layer}.":
        return "time embedding: one row for each picture"
    if len(users) > 1:
        return "a weight of several products"
    return None
