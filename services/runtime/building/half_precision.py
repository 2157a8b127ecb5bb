"""A graph in f32 to one that computes in f16, types stated at every edge.

Compilers that take types as they stand ("strongly typed") compute what this pass says. Inputs and
outputs stay f32. What makes the sine and cosine of a timestep stays f32 too: f16 knows 1000 only
to the half, and the sine of it not at all. Norms keep their own f32 sums (`stash_type`).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from .bank_graph import take_products
from .failures import ExportFailed

_F32, _F16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
_MOST_F16 = float(np.finfo(np.float16).max)
# Their inputs have to be known finely; all that leads to them stays f32.
_PRECISE = frozenset({"Sin", "Cos"})
# Inputs that the standard has in f32 whatever the others are, or our kernel: an adapter's scales.
_F32_INPUTS = frozenset({("Resize", 1), ("Resize", 2), ("LoraBank", 4)})
# Their outputs' type is not that of their inputs.
_TYPE_ATTRIBUTES = {"Cast": "to", "EyeLike": "dtype", "RandomNormalLike": "dtype"}


def static_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns an exported graph without branches, the type of every value stated.

    Raises:
        ExportFailed: it branches where no adapter is, or its types cannot be told.
    """
    static = ir.from_proto(model)
    take_products(static)
    try:
        typed = onnx.shape_inference.infer_shapes(ir.to_proto(static), strict_mode=True)
    except Exception as exc:
        raise ExportFailed(f"the types of the graph cannot be told: {exc}") from exc
    untyped = {
        node.op_type
        for node in ir.from_proto(typed).graph
        if any(value.name and value.dtype is None for value in node.outputs)
    }
    if untyped:
        raise ExportFailed(f"it has operators of unknown types: {', '.join(sorted(untyped))}")
    return typed


def to_half_precision(
    model: onnx.ModelProto | ir.Model,
    weights: Mapping[str, NDArray[Any]],
    shapes: Mapping[str, tuple[int, ...]],
) -> ir.Model:
    """Returns a graph that computes in f16 and holds its weights.

    Args:
        model: the graph in f32 as `static_graph` returns it; one in `ir` is changed in place.
        weights: what the graph leaves out, f32, in the graph's shapes.
        shapes: of inputs that belong to the network rather than to a call, e.g. its adapters': they
            become f16 and of one size.

    Raises:
        ExportFailed: it uses weights or has shapes of inputs that are not given.
    """
    typed = model if isinstance(model, ir.Model) else ir.from_proto(model)
    fill_weights(typed.graph, weights)
    fix_shapes(typed.graph, shapes)
    _Pass(typed.graph, frozenset(shapes)).run()
    return typed


def half_of(array: NDArray[Any]) -> NDArray[np.float16]:
    """Returns values in f16; finite ones beyond its range become the largest of it."""
    finite = np.where(np.isfinite(array), np.clip(array, -_MOST_F16, _MOST_F16), array)
    return finite.astype(np.float16)


def fill_weights(graph: ir.Graph, weights: Mapping[str, NDArray[Any]]) -> None:
    """Puts the weights into a graph that leaves them out, in place.

    Raises:
        ExportFailed: it uses weights that are not given.
    """
    for name, value in graph.initializers.items():
        if isinstance(value.const_value, ir.ExternalTensor):
            if name not in weights:
                raise ExportFailed(f"the graph uses {name}, which is not among the weights")
            value.const_value = ir.tensor(weights[name], name=name)


def fix_shapes(graph: ir.Graph, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Gives inputs of a graph one size each, in place.

    Raises:
        ExportFailed: it has no such input.
    """
    inputs = {value.name: value for value in graph.inputs}
    for name, shape in shapes.items():
        if name not in inputs:
            raise ExportFailed(f"the graph has no input {name}")
        inputs[name].shape = ir.Shape(shape)


class _Pass:
    """One graph's conversion."""

    def __init__(self, graph: ir.Graph, own_inputs: frozenset[str]) -> None:
        self._graph = graph
        # By identity: what is f32 in the graph as it came.
        values = [*graph.inputs, *graph.initializers.values()]
        values += [output for node in graph for output in node.outputs]
        self._floats = {value for value in values if value.dtype == _F32}
        self._precise = self._leading_to_precise()
        self._converted: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        for value in graph.inputs:
            if value.name in own_inputs and value in self._floats:
                value.dtype = _F16

    def run(self) -> None:
        for node in list(self._graph):
            self._convert_node(node, _F32 if node in self._precise else _F16)
        for index, value in enumerate(list(self._graph.outputs)):
            if value in self._floats and value.dtype == _F16:
                self._graph.outputs[index] = self._f32_output(value)
        for name in [n for n, value in self._graph.initializers.items() if not value.uses()]:
            del self._graph.initializers[name]

    def _leading_to_precise(self) -> frozenset[ir.Node]:
        found: set[ir.Node] = set()
        waiting = [node for node in self._graph if node.op_type in _PRECISE]
        while waiting:
            node = waiting.pop()
            if node in found:
                continue
            found.add(node)
            floats = [value for value in node.inputs if value in self._floats]
            waiting += [p for value in floats if value is not None and (p := value.producer())]
        return frozenset(found)

    def _convert_node(self, node: ir.Node, dtype: ir.DataType) -> None:
        for index, value in enumerate(node.inputs):
            # A cast takes any type and its output's is its own.
            if value is None or value not in self._floats or node.op_type == "Cast":
                continue
            fixed = (node.op_type, index) in _F32_INPUTS
            node.replace_input_with(index, self._as(value, _F32 if fixed else dtype, node))
        for output in node.outputs:
            if output in self._floats:
                output.dtype = dtype
                self._state_type(node, dtype)

    def _state_type(self, node: ir.Node, dtype: ir.DataType) -> None:
        attribute = _TYPE_ATTRIBUTES.get(node.op_type)
        if attribute is not None:
            node.attributes[attribute] = ir.AttrInt64(attribute, int(dtype))
        if node.op_type == "ConstantOfShape" and dtype == _F16:
            value = node.attributes.get_tensor("value")
            array = np.zeros(1) if value is None else value.numpy()
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(half_of(array)))

    def _as(self, value: ir.Value, dtype: ir.DataType, user: ir.Node) -> ir.Value:
        """Returns a value in a type: a constant is converted here, anything else by a node."""
        if value.dtype == dtype:
            return value
        key = (value, dtype)
        if key not in self._converted:
            name = f"{value.name}.{dtype.name.lower()}"
            constant = value.const_value
            if constant is not None and value.is_initializer():
                array = half_of(constant.numpy())
                self._converted[key] = ir.Value(
                    name=name,
                    type=ir.TensorType(dtype),
                    shape=value.shape,
                    const_value=ir.tensor(array, name=name),
                )
                self._graph.register_initializer(self._converted[key])
            else:
                cast = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{name}.cast")
                cast.outputs[0].name = name
                cast.outputs[0].type = ir.TensorType(dtype)
                cast.outputs[0].shape = value.shape
                self._insert(cast, value, user)
                self._converted[key] = cast.outputs[0]
        return self._converted[key]

    def _insert(self, cast: ir.Node, value: ir.Value, user: ir.Node) -> None:
        producer = value.producer()
        if producer is None:
            # Of an input: before the first that uses it, since nodes are taken in order.
            self._graph.insert_before(user, cast)
        else:
            self._graph.insert_after(producer, cast)

    def _f32_output(self, value: ir.Value) -> ir.Value:
        cast = ir.node("Cast", [value], {"to": int(_F32)}, name=f"{value.name}.cast")
        cast.outputs[0].name, value.name = value.name, f"{value.name}.float16"
        cast.outputs[0].type = ir.TensorType(_F32)
        cast.outputs[0].shape = value.shape
        self._graph.append(cast)
        return cast.outputs[0]
