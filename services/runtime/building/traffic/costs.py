"""Bytes that a node moves to and from a GPU's memory.

Each node is a kernel of its own that reads every input once and writes every output once; what is
said here is where that is not so. Caches are not looked at: a product that does not fit them reads
its inputs more often than this.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from .....kernels.attention.op import DEPTH_LIMIT
from .....kernels.group_norm_silu.op import resident_blocks
from .....kernels.layer_norm.op import WIDTH_LIMIT
from .....kernels.lora_bank.op import RANK_LIMIT
from ..failures import ExportFailed

# Another view of the same bytes.
_VIEWS = frozenset(("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Constant"))
# Views to whoever has strides, as torch's; copies in a graph that is run node by node.
_STRIDED = frozenset(("Split", "Transpose", "Slice"))
# They read what they give and no more.
_PICKING = frozenset(("Gather", "Slice"))


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes of one node.

    Attributes:
        moved: to and from memory.
        least: each input read once and each output written once.
    """

    moved: int
    least: int


class Meter:
    """Measures the nodes of one graph.

    Args:
        graph: the plain graph; every size in it is a number.
        weights: names of the weights.
        float_bytes: bytes of one number, 2 for half precision.
        views: whether Split, Transpose and Slice move nothing.
    """

    def __init__(
        self, graph: ir.Graph, weights: tuple[str, ...], *, float_bytes: int, views: bool
    ) -> None:
        self._float_bytes = float_bytes
        self._views = views
        self._fixed = {*weights, *graph.initializers}
        for node in graph:
            inputs = [value for value in node.inputs if value is not None]
            # Done once, when the engine is built: a weight that is turned round.
            if all(value.name in self._fixed for value in inputs):
                self._fixed.update(str(value.name) for value in node.outputs)

    def size(self, value: ir.Value) -> int:
        """Returns the bytes of a value.

        Raises:
            ExportFailed: its type or shape is not known.
        """
        if value.shape is None or value.dtype is None or not value.shape.is_static():
            raise ExportFailed(f"the size of {value.name} is not known")
        known = self._float_bytes if value.dtype.is_floating_point() else value.dtype.itemsize
        return int(prod(int(size) for size in value.shape.numpy()) * known)

    def cost(self, node: ir.Node) -> Cost:
        """Returns what a standard node moves by itself."""
        if self._is_free(node):
            return Cost(0, 0)
        written = sum(self.size(value) for value in node.outputs)
        if node.op_type in _PICKING:
            return Cost(2 * written, 2 * written)
        inputs = dict.fromkeys(value for value in node.inputs if value is not None)
        least = sum(self.size(value) for value in inputs) + written
        # Its moments first, then itself.
        again = self.size(next(iter(inputs))) if node.op_type == "GroupNormalization" else 0
        return Cost(least + again, least)

    def fused_cost(self, node: ir.Node, unfused_bytes: int) -> Cost:
        """Returns what our kernel for a fused node moves; what the parts do where there is none."""
        inputs = dict.fromkeys(value for value in node.inputs if value is not None)
        least = sum(self.size(value) for value in inputs) + self.size(node.outputs[0])
        passes = _input_passes(node)
        if passes is None:
            return Cost(unfused_bytes, least)
        return Cost(least + (passes - 1) * self.size(next(iter(inputs))), least)

    def _is_free(self, node: ir.Node) -> bool:
        if node.op_type in _VIEWS or (self._views and node.op_type in _STRIDED):
            return True
        if all(value.name in self._fixed for value in node.outputs):
            return True
        # Sizes that a graph computes with are not worth a kernel.
        if all(value.dtype == ir.DataType.INT64 for value in node.outputs):
            return True
        return _is_by_one(node) or self._is_bias(node)

    def _is_bias(self, node: ir.Node) -> bool:
        """Tells whether a node adds a bias to a product, which every library does on the way."""
        if node.op_type != "Add":
            return False
        for bias, product in (node.inputs, node.inputs[::-1]):
            maker = None if product is None else product.producer()
            if bias is None or maker is None or bias.shape is None:
                continue
            if bias.name in self._fixed and len(bias.shape) == 1 and maker.op_type == "MatMul":
                return len(maker.outputs[0].uses()) == 1
        return False


def _is_by_one(node: ir.Node) -> bool:
    """Tells whether a node divides or multiplies by 1, as diffusers' scales of outputs do."""
    if node.op_type not in ("Div", "Mul") or node.inputs[1] is None:
        return False
    tensor = ir.convenience.get_const_tensor(node.inputs[1])
    return tensor is not None and tensor.size == 1 and float(tensor.numpy().reshape(-1)[0]) == 1.0


def _input_passes(node: ir.Node) -> int | None:
    """Returns how often our kernel reads its first input; None if none of ours takes the node."""
    x = node.inputs[0]
    assert x is not None
    assert x.shape is not None
    shape: Mapping[int, int] = {i: int(n) for i, n in enumerate(x.shape.numpy())}
    if node.op_type in ("Geglu", "Silu", "ExactGelu"):
        return 1
    if node.op_type == "LayerNorm":
        return 1 if shape[len(shape) - 1] <= WIDTH_LIMIT else None
    if node.op_type == "ScaledAttention":
        return 1 if shape[len(shape) - 1] <= DEPTH_LIMIT else None
    if node.op_type == "LoraBank":
        rank = node.inputs[2].shape[1] if node.inputs[2] and node.inputs[2].shape else None
        return 1 if isinstance(rank, int) and rank <= RANK_LIMIT else None
    if node.op_type == "GroupNormSilu":
        groups = node.attributes["groups"].as_int()
        pixels = prod(shape[axis] for axis in range(2, len(shape)))
        return 1 if resident_blocks(shape[1] // groups, pixels) else 2
    return None
