"""Puts quantised values into a graph: where a product takes them, and nowhere else.

    x -> QuantizeLinear -> DequantizeLinear -> product <- DequantizeLinear <- weight in 8 bits

Compilers take the two operators before a product as its type (explicit quantisation); everyone else
computes what they say. Other users of `x`, residual sums and adapters, keep `x`.
"""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...engines.precisions import Precision
from .calibration import Scales

_TYPES = {"int8": ir.DataType.INT8, "fp8": ir.DataType.FLOAT8E4M3FN}
_RANGES = {"int8": (-128.0, 127.0), "fp8": (-448.0, 448.0)}
# Scales become f16: smaller ones would lose bits.
_LEAST_SCALE = float(np.finfo(np.float16).smallest_normal)


def insert_quantization(
    graph: ir.Graph, scales: Mapping[str, Scales], precision: Precision
) -> None:
    """Quantises products of a graph in f32, in place.

    Args:
        graph: its products have their weights as initializers.
        scales: by the name of the product's node.
        precision: `int8` or `fp8`.
    """
    pass_ = _Pass(graph, precision)
    for node in list(graph):
        if node.name in scales:
            pass_.quantize(node, scales[str(node.name)])


class _Pass:
    """One graph's quantisation."""

    def __init__(self, graph: ir.Graph, precision: Precision) -> None:
        self._graph = graph
        self._precision: Precision = precision
        self._activations: dict[tuple[ir.Value, float], ir.Value] = {}

    def quantize(self, node: ir.Node, scales: Scales) -> None:
        x, weight = node.inputs[0], node.inputs[1]
        assert x is not None, "a product has inputs"
        assert weight is not None, "a product has a weight"
        node.replace_input_with(0, self._activation(x, _in_f16(scales.activation), node))
        node.replace_input_with(1, self._weight(weight, _in_f16(scales.weight), node))
        if not weight.uses():
            del self._graph.initializers[str(weight.name)]

    def _activation(self, x: ir.Value, scale: NDArray[np.float32], user: ir.Node) -> ir.Value:
        key = (x, float(scale))
        if key not in self._activations:
            name = f"{x.name}.{self._precision}"
            if name in self._graph.initializers or any(k[0] is x for k in self._activations):
                name = f"{name}.{len(self._activations)}"
            parts = self._constants(name, scale)
            down = ir.node("QuantizeLinear", [x, *parts], name=f"{name}.quantize")
            down.outputs[0].name = f"{name}.quantised"
            down.outputs[0].type = ir.TensorType(_TYPES[self._precision])
            down.outputs[0].shape = x.shape
            back = self._dequantize(down.outputs[0], parts, name, {})
            producer = x.producer()
            if producer is None:
                self._graph.insert_before(user, [down, back])
            else:
                self._graph.insert_after(producer, [down, back])
            self._activations[key] = back.outputs[0]
        return self._activations[key]

    def _weight(self, weight: ir.Value, scale: NDArray[np.float32], user: ir.Node) -> ir.Value:
        assert weight.const_value is not None, "weights of products are constants"
        array = weight.const_value.numpy()
        axis = _channel_axis(user)
        name = f"{weight.name}.{self._precision}"
        content = quantized(array, scale, axis, self._precision)
        constant = self._constant(name, content, _TYPES[self._precision])
        back = self._dequantize(constant, self._constants(name, scale), name, {"axis": axis})
        self._graph.insert_before(user, back)
        return back.outputs[0]

    def _dequantize(
        self, value: ir.Value, parts: list[ir.Value], name: str, attributes: dict[str, int]
    ) -> ir.Node:
        node = ir.node("DequantizeLinear", [value, *parts], attributes, name=f"{name}.dequantize")
        node.outputs[0].name = f"{name}.dequantised"
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        node.outputs[0].shape = value.shape
        return node

    def _constants(self, name: str, scale: NDArray[np.float32]) -> list[ir.Value]:
        zero = np.zeros(scale.shape, np.int8 if self._precision == "int8" else np.float32)
        return [
            self._constant(f"{name}.scale", scale, ir.DataType.FLOAT),
            self._constant(f"{name}.zero", _cast(zero, self._precision), _TYPES[self._precision]),
        ]

    def _constant(self, name: str, array: NDArray[Any], dtype: ir.DataType) -> ir.Value:
        value = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(dtype),
            const_value=ir.Tensor(array, dtype=dtype, name=name),
        )
        self._graph.register_initializer(value)
        return value


def quantized(
    array: NDArray[np.float32], scale: NDArray[np.float32], axis: int, precision: Precision
) -> NDArray[Any]:
    """Returns values in 8 bits: the nearest multiple of the scale, ties to even, at most the range.

    Args:
        array: what to quantise, f32.
        scale: one, or one for each index of the axis: `[channels]`.
        axis: of the scales.
        precision: `int8` or `fp8`.
    """
    shape = [1] * array.ndim
    shape[axis] = -1
    return _cast(np.clip(array / scale.reshape(shape), *_RANGES[precision]), precision)


def _cast(array: NDArray[Any], precision: Precision) -> NDArray[Any]:
    if precision == "int8":
        return np.rint(array).astype(np.int8)
    return array.astype(ml_dtypes.float8_e4m3fn)


def _channel_axis(node: ir.Node) -> int:
    """Returns the axis of a product's weight that its output channels lie on."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.attributes.get_int("transB", 0) else 1


def _in_f16(scale: float | NDArray[np.float32]) -> NDArray[np.float32]:
    least = np.maximum(np.asarray(scale, np.float32), _LEAST_SCALE)
    return least.astype(np.float16).astype(np.float32)
