"""Adds to a UNet's graph what a bank of low-rank adapters needs: inputs and small products.

A pass over the finished graph rather than modules that are traced: tracing takes a minute and its
time grows with every input, the pass takes none, and a model without adapters keeps its graph. The
matrices are inputs, not weights, so one graph serves any number of adapters, of any ranks.

The products are computed for the rows alone that use an adapter: these are gathered, and what they
add is scattered back. All of it lies in the branch of an `If` that a batch without adapters does
not take. So a row of the UNet itself costs what it costs without a bank, whoever is beside it, and
has the same bits.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from ..engines.adapter_bank import ROW_INDICES_NAME, ROWS_NAME, SCALE_NAME, bank_input_names
from .failures import ExportFailed

# The operations that a layer may be.
_PRODUCTS = ("Conv", "MatMul", "Gemm")


def insert_bank(graph: ir.Graph, weights: Mapping[str, ir.Value], layers: Sequence[str]) -> None:
    """Adds `h = x @ down; h *= scale[row]; y += h @ up` to some layers, where any scale is not 0.

    Args:
        graph: the UNet's.
        weights: its weights by their stored names.
        layers: names of the layers; none leaves the graph as it is.

    Raises:
        ExportFailed: a layer is not in the graph, or is computed in a way that is not known here.
    """
    if not layers:
        return
    scales = _Scales(graph)
    for layer in layers:
        weight = weights.get(f"{layer}.weight")
        if weight is None:
            raise ExportFailed(f"{layer} cannot be adapted: its weight is not in the graph")
        _Layer(graph, layer, weight, scales).adapt()


def take_products(model: ir.Model) -> None:
    """Makes a graph compute its adapters' products for every row, in place: no branch is left.

    For compilers: one static graph fuses and replays where a branch is a barrier, and where the
    number of rows that use an adapter would be known at run time only. Rows without one add a
    product with zeros.

    Raises:
        ExportFailed: the graph branches elsewhere too.
    """
    graph = model.graph
    for node in [node for node in graph if node.op_type == "If"]:
        branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
        product, plain = branches
        if [one.op_type for one in plain] != ["Identity"] or len(node.outputs) != 1:
            raise ExportFailed(f"the graph branches at {node.name}")
        nodes, output = list(product), product.outputs[0]
        for inner in nodes:
            # Every branch counts its own from zero.
            inner.name = f"{product.name}.{inner.name}"
            for value in inner.outputs:
                value.name = f"{product.name}.{value.name}"
        product.remove(nodes)
        product.outputs.clear()
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], nodes, [node.outputs[0]], [output]
        )
    for node in list(graph):
        _take_all_rows(graph, node)
    passes.RemoveUnusedNodesPass()(model)


def _take_all_rows(graph: ir.Graph, node: ir.Node) -> None:
    """Replaces what gathers the rows that use an adapter, or scatters them back."""
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return
    data, index = node.inputs[0], node.inputs[1].name
    if node.op_type == "Gather" and index == ROWS_NAME:
        assert data is not None
        node.outputs[0].replace_all_uses_with(data)
        graph.remove(node, safe=True)
    elif node.op_type == "ScatterND" and index == ROW_INDICES_NAME:
        total = ir.node("Add", [data, node.inputs[2]])
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], [total], [node.outputs[0]], [total.outputs[0]]
        )


class _Scales:
    """The scales of the rows that use an adapter, `[used, slots]`, as layers take them."""

    def __init__(self, graph: ir.Graph) -> None:
        scale = _input(graph, SCALE_NAME, ir.DataType.FLOAT, ["batch", "slots"])
        first = next(iter(graph))
        one = _axes(graph, [1])
        none = _constant(graph, f"{SCALE_NAME}_none", np.float32(0))
        size = ir.node("Abs", [scale])
        most = ir.node("ReduceMax", [size.outputs[0], one], {"keepdims": 0})
        uses = ir.node("Greater", [most.outputs[0], none])
        indices = ir.node("NonZero", [uses.outputs[0]])
        rows = ir.node("Squeeze", [indices.outputs[0], _axes(graph, [0])])
        column = ir.node("Unsqueeze", [rows.outputs[0], one])
        peak = ir.node("ReduceMax", [most.outputs[0]], {"keepdims": 0})
        some = ir.node("Greater", [peak.outputs[0], none])
        self.rows, self.row_indices = rows.outputs[0], column.outputs[0]
        self.rows.name, self.row_indices.name = ROWS_NAME, ROW_INDICES_NAME
        self.used: ir.Value = some.outputs[0]  # whether any row uses any adapter
        own = ir.node("Gather", [scale, self.rows], {"axis": 0})
        used = own.outputs[0]
        token = ir.node("Unsqueeze", [used, one])
        pixel = ir.node("Unsqueeze", [used, _axes(graph, [2, 3])])
        twice = ir.node("Concat", [used, used], {"axis": 0})
        both = ir.node("Unsqueeze", [twice.outputs[0], one])
        added = [token, pixel, twice, both]
        graph.insert_before(
            first, [size, most, uses, indices, rows, column, peak, some, own, *added]
        )
        self.tokens: ir.Value  # [used, 1, slots]
        self.pixels: ir.Value  # [used, slots, 1, 1]
        self.twice: ir.Value  # [2 * used, slots]
        self.tokens_twice: ir.Value  # [2 * used, 1, slots]
        self.tokens, self.pixels, self.twice, self.tokens_twice = (n.outputs[0] for n in added)


class _Layer:
    """One layer to adapt."""

    def __init__(self, graph: ir.Graph, name: str, weight: ir.Value, scales: _Scales) -> None:
        self._graph = graph
        self._name = name
        self._scales = scales
        self._shape = tuple(int(size) for size in _known_shape(name, weight))
        self._node = _find_product(name, weight)

    def adapt(self) -> None:
        old = self._node
        base = ir.node(old.op_type, list(old.inputs), dict(old.attributes))
        total = self._where_used(base.outputs[0])
        ir.convenience.replace_nodes_and_values(
            self._graph, old, [old], [base, total], [old.outputs[0]], [total.outputs[0]]
        )

    def _where_used(self, base: ir.Value) -> ir.Node:
        rows = ir.node("Gather", [self._node.inputs[0], self._scales.rows], {"axis": 0})
        add_product = {
            "Conv": self._add_to_convolution,
            "MatMul": self._add_to_tokens,
            "Gemm": self._add_to_rows,
        }[self._node.op_type]
        product = add_product(rows.outputs[0])
        inputs = [base, self._scales.row_indices, product[-1].outputs[0]]
        total = ir.node("ScatterND", inputs, {"reduction": "add"})
        branches = {
            "then_branch": self._branch("adapted", [rows, *product, total]),
            "else_branch": self._branch("plain", [ir.node("Identity", [base])]),
        }
        return ir.node("If", [self._scales.used], branches)

    def _branch(self, name: str, nodes: list[ir.Node]) -> ir.Graph:
        output = nodes[-1].outputs[0]
        output.name, output.type = f"{self._name}.{name}", ir.TensorType(ir.DataType.FLOAT)
        return ir.Graph([], [output], nodes=nodes, name=f"{self._name}.{name}")

    def _add_to_convolution(self, x: ir.Value) -> list[ir.Node]:
        """Pictures: [used, C, h, w]."""
        size = [self._shape[0], "width", 1, 1]
        down, up, slot = self._inputs(["width", *self._shape[1:]], size)
        low = ir.node("Conv", [x, down], dict(self._node.attributes))
        scale = ir.node("Gather", [self._scales.pixels, slot], {"axis": 1})
        scaled = ir.node("Mul", [low.outputs[0], scale.outputs[0]])
        return [low, scale, scaled, ir.node("Conv", [scaled.outputs[0], up])]

    def _add_to_tokens(self, x: ir.Value) -> list[ir.Node]:
        """Tokens: [used, L, W]."""
        if _has_single_token(self._node.inputs[0]):
            return self._add_twice(x, self._scales.tokens_twice, axis=2)
        return self._add_to_matrix(x, self._scales.tokens, axis=2)

    def _add_to_rows(self, x: ir.Value) -> list[ir.Node]:
        """Rows: [used, W]."""
        return self._add_twice(x, self._scales.twice, axis=1)

    def _add_twice(self, x: ir.Value, scales: ir.Value, axis: int) -> list[ir.Node]:
        """Takes every row twice and drops half of the result.

        A product with a single row is computed by other code than one with more, in other bits.
        """
        twice = ir.node("Concat", [x, x], {"axis": 0})
        product = self._add_to_matrix(twice.outputs[0], scales, axis=axis)
        half = ir.node(
            "Split", [product[-1].outputs[0]], {"axis": 0, "num_outputs": 2}, num_outputs=2
        )
        return [twice, *product, half]

    def _add_to_matrix(self, x: ir.Value, scales: ir.Value, axis: int) -> list[ir.Node]:
        down, up, slot = self._inputs([self._shape[1], "width"], ["width", self._shape[0]])
        low = ir.node("MatMul", [x, down])
        scale = ir.node("Gather", [scales, slot], {"axis": axis})
        scaled = ir.node("Mul", [low.outputs[0], scale.outputs[0]])
        return [low, scale, scaled, ir.node("MatMul", [scaled.outputs[0], up])]

    def _inputs(
        self, down: Sequence[int | str], up: Sequence[int | str]
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        # Each layer's width is a size of its own: ranks differ from layer to layer.
        width = f"{self._name}.width"
        shapes = [[width if size == "width" else size for size in s] for s in (down, up, ["width"])]
        dtypes = (ir.DataType.FLOAT, ir.DataType.FLOAT, ir.DataType.INT64)
        names = bank_input_names(self._name)
        first, second, third = (
            _input(self._graph, name, dtype, shape)
            for name, dtype, shape in zip(names, dtypes, shapes, strict=True)
        )
        return first, second, third


def _find_product(name: str, weight: ir.Value) -> ir.Node:
    """Returns the node that multiplies by a layer's weight."""
    users = [use.node for use in weight.uses()]
    if len(users) == 1 and users[0].op_type == "Transpose":
        users = [use.node for use in users[0].outputs[0].uses()]
    if len(users) != 1 or users[0].op_type not in _PRODUCTS:
        kinds = ", ".join(sorted(user.op_type for user in users)) or "nothing"
        raise ExportFailed(f"{name} cannot be adapted: its weight goes into {kinds}")
    if users[0].attributes.get_int("group", 1) != 1:
        raise ExportFailed(f"{name} cannot be adapted: it is a grouped convolution")
    return users[0]


def _has_single_token(value: ir.Value | None) -> bool:
    """Tells whether each row is one token, as where a text is pooled into one."""
    shape = None if value is None else value.shape
    return shape is not None and len(shape) == 3 and shape[1] == 1


def _known_shape(name: str, weight: ir.Value) -> tuple[int, ...]:
    if weight.shape is None:
        raise ExportFailed(f"{name} cannot be adapted: its weight has no shape")
    return tuple(int(size) for size in weight.shape.numpy())


def _input(graph: ir.Graph, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
    value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
    graph.inputs.append(value)
    return value


def _axes(graph: ir.Graph, axes: list[int]) -> ir.Value:
    name = f"{SCALE_NAME}_axes_{'_'.join(map(str, axes))}"
    return _constant(graph, name, np.array(axes, np.int64))


def _constant(graph: ir.Graph, name: str, array: np.ndarray | np.generic) -> ir.Value:
    tensor = ir.tensor(np.asarray(array), name=name)
    value = ir.Value(
        name=name,
        shape=ir.Shape(np.shape(array)),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value
