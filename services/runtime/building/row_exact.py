"""Makes a graph give a row the same bits alone and among others.

Requests share batches, and the same seed must give the same picture whoever is in the batch. Of
the operators that these models use, ONNX Runtime computes two in a way that depends on the
neighbours (measured for 1.32, batches of 1 to 8, 1 to 4 threads); each is replaced by one that does
not. Matrix products, convolutions, norms, softmax and the other functions were exact already.
"""

import numpy as np
import onnx_ir as ir

# Floats in the widest vector register of today's CPUs: AVX-512.
_VECTOR_LANES = 16


def make_row_exact(graph: ir.Graph) -> None:
    """Replaces the operators whose result for one row depends on the other rows, in place."""
    for node in list(graph):
        if node.op_type == "ReduceMean" and _averages_tokens(node):
            _replace_mean(graph, node)
        elif node.op_type in ("Sin", "Cos"):
            width = _width(node.inputs[0])
            if width is not None and width % _VECTOR_LANES:
                _replace_wave(graph, node, width)


def _averages_tokens(node: ir.Node) -> bool:
    x, axes = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    constant = None if axes is None else ir.convenience.get_const_tensor(axes)
    if x is None or x.shape is None or constant is None:
        return False
    kept = node.attributes.get_int("keepdims", 1) == 1
    return kept and len(x.shape) == 3 and constant.numpy().tolist() in ([1], [-2])


def _replace_mean(graph: ir.Graph, node: ir.Node) -> None:
    """The mean over the tokens: [B, L, W] -> [B, 1, W].

    ONNX Runtime sums in another order when the batch is smaller than its threads, one included:
    it then shares out the width instead of the batch. A pool sums each channel on its own.
    """
    turned = ir.node("Transpose", [node.inputs[0]], {"perm": [0, 2, 1]})
    pooled = ir.node("GlobalAveragePool", [turned.outputs[0]])
    back = ir.node("Transpose", [pooled.outputs[0]], {"perm": [0, 2, 1]})
    _swap(graph, node, [turned, pooled, back])


def _width(value: ir.Value | None) -> int | None:
    """Returns n of a value of shape [B, n]; None for any other shape."""
    if value is None or value.shape is None or len(value.shape) != 2:
        return None
    width = value.shape[1]
    return width if isinstance(width, int) else None


def _replace_wave(graph: ir.Graph, node: ir.Node, width: int) -> None:
    """Sine or cosine of [B, n], n no multiple of a vector.

    The tail of the whole array is computed by other code than full vectors and differs in the last
    bit, so which rows it touches depends on the batch. Padded rows have no tail.
    """
    name = str(node.outputs[0].name)
    padding = _constant(graph, f"{name}_padding", [0, 0, 0, -width % _VECTOR_LANES])
    padded = ir.node("Pad", [node.inputs[0], padding])
    wave = ir.node(node.op_type, [padded.outputs[0]])
    bounds = [
        _constant(graph, f"{name}_{part}", [value])
        for part, value in (("start", 0), ("end", width), ("axis", 1))
    ]
    cut = ir.node("Slice", [wave.outputs[0], *bounds])
    _swap(graph, node, [padded, wave, cut])


def _constant(graph: ir.Graph, name: str, values: list[int]) -> ir.Value:
    tensor = ir.tensor(np.array(values, np.int64), name=name)
    value = ir.Value(
        name=name,
        shape=ir.Shape([len(values)]),
        type=ir.TensorType(ir.DataType.INT64),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def _swap(graph: ir.Graph, old: ir.Node, new: list[ir.Node]) -> None:
    ir.convenience.replace_nodes_and_values(
        graph, old, [old], new, [old.outputs[0]], [new[-1].outputs[0]]
    )
