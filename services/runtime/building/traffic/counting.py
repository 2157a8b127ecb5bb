"""The traffic of a network: its graph as it is, and with the fused nodes, by kind of operation."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from ..fusing.fuse import fuse
from .costs import Meter

# What the rows are called, in the order of the report.
_FUSED: Mapping[str, str] = {
    "Geglu": "GEGLU",
    "GroupNormSilu": "GroupNorm + SiLU",
    "GroupNorm": "GroupNorm",
    "LayerNorm": "LayerNorm",
    "Silu": "SiLU",
    "ExactGelu": "GELU",
    "ScaledAttention": "attention",
    "MaskedAttention": "masked attention",
    "LoraBank": "adapter bank",
}
_CONVOLUTION, _PRODUCT = "convolution", "matrix product"
_MOVED, _OTHER = "copied or resized", "element by element"
_PLAIN: Mapping[str, str] = {
    "Conv": _CONVOLUTION,
    **dict.fromkeys(("MatMul", "Gemm", "Einsum"), _PRODUCT),
    **dict.fromkeys(
        ("Transpose", "Split", "Concat", "Slice", "Resize", "Gather", "Pad", "Expand"), _MOVED
    ),
}
KINDS = (*_FUSED.values(), _CONVOLUTION, _PRODUCT, _MOVED, _OTHER)


@dataclass(frozen=True, slots=True)
class Row:
    """Bytes of one kind of operation.

    Attributes:
        kind: e.g. `GEGLU`.
        count: how many there are.
        unfused_bytes: every node of the plain graph a kernel of its own.
        fused_bytes: the same with our kernels where we have one.
        least_bytes: every input of each of them read once, every output written once.
    """

    kind: str
    count: int
    unfused_bytes: int
    fused_bytes: int
    least_bytes: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one evaluation of a network.

    Attributes:
        rows: kinds that move something, in the order of `KINDS`.
        weight_bytes: bytes of all its weights, which are part of the rows.
    """

    rows: tuple[Row, ...]
    weight_bytes: int

    @property
    def total(self) -> Row:
        """The sum."""
        return Row(
            "all",
            sum(row.count for row in self.rows),
            sum(row.unfused_bytes for row in self.rows),
            sum(row.fused_bytes for row in self.rows),
            sum(row.least_bytes for row in self.rows),
        )


def count_traffic(
    model: ir.Model, weights: tuple[str, ...], *, float_bytes: int = 2, views: bool = False
) -> Traffic:
    """Returns the traffic of a plain graph. The model is fused on the way.

    Args:
        model: at opset 21; all sizes are numbers.
        weights: names of its weights, inputs or initializers.
        float_bytes: bytes of one number, 2 for half precision.
        views: whether Split, Transpose and Slice move nothing, as torch's views.

    Raises:
        ExportFailed: a size is not known.
        UnknownGraph: the graph is at another opset.
    """
    # Sizes between the operators of torch, which the exporter leaves out.
    model = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True))
    meter = Meter(model.graph, weights, float_bytes=float_bytes, views=views)
    # Before and not after: the nodes that are fused are gone then.
    plain = {str(node.outputs[0].name): meter.cost(node).moved for node in model.graph}
    weight_bytes = sum(
        meter.size(value)
        for value in (*model.graph.inputs, *model.graph.initializers.values())
        if value.name in weights and value.uses()
    )
    report = fuse(model)
    kept = {str(node.outputs[0].name) for node in model.graph if not node.domain}
    parts = {one.output: [v for v in one.values if v not in kept] for one in report.replaced}
    found: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for node in model.graph:
        name = str(node.outputs[0].name)
        if node.domain:
            unfused = sum(plain.get(part, 0) for part in parts[name])
            cost = meter.fused_cost(node, unfused)
            found[_FUSED[node.op_type]].append((unfused, cost.moved, cost.least))
            continue
        cost = meter.cost(node)
        if cost.moved:
            kind = _PLAIN.get(node.op_type, _OTHER)
            found[kind].append((cost.moved, cost.moved, cost.least))
    rows = (
        Row(kind, len(found[kind]), *(sum(column) for column in zip(*found[kind], strict=True)))
        for kind in KINDS
        if found[kind]
    )
    return Traffic(tuple(rows), weight_bytes)
