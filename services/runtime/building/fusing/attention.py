"""Attention as torch's exporter writes `scaled_dot_product_attention`.

Query and transposed key are each multiplied by the fourth root of 1 / depth; a bool mask has become
numbers that are added to the scores, and rows without any key are turned from NaN to 0. With sizes
that are not known the key is transposed in three axes, between two reshapes whose shapes the graph
computes.
"""

from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from .matching import (
    Match,
    NoMatch,
    Pattern,
    first_input,
    is_last_axis,
    only_user,
    other_factor,
    producer,
    require_floats,
    scalar,
)

# A size that is known, or which axis of which value it is.
Size: TypeAlias = int | tuple[ir.Value, int]


@dataclass(frozen=True, slots=True)
class _Scores:
    """What goes into the softmax: `(query * root) @ (key * root)^T`."""

    query: ir.Value
    key: ir.Value
    root: float
    nodes: tuple[ir.Node, ...]
    moves: tuple[ir.Node, ...]


def find_attention(softmax: ir.Node) -> Match:
    """`softmax(query @ key^T * scale) @ value`, at the Softmax."""
    _require_rows(softmax)
    product = producer(first_input(softmax), "MatMul", "Add")
    if product.op_type == "Add":
        raise NoMatch("a mask is added to its scores")
    scores = _find_scores(product)
    return _weigh(scores, (softmax,), softmax.outputs[0], ())


def find_masked_attention(softmax: ir.Node) -> Match:
    """The same with a mask that is added to the scores; rows without a key become 0."""
    _require_rows(softmax)
    masked = producer(first_input(softmax), "Add")
    scores = _find_scores(producer(masked.inputs[0], "MatMul"))
    mask = other_factor(masked, scores.nodes[-1].outputs[0])
    guard = _find_guard(softmax.outputs[0])
    return _weigh(scores, (masked, softmax, *guard), guard[-1].outputs[0], (mask,))


def _require_rows(softmax: ir.Node) -> None:
    if not is_last_axis(first_input(softmax), softmax.attributes.get_int("axis", -1)):
        raise NoMatch("the softmax is not over the last axis")


def _weigh(
    scores: _Scores,
    between: tuple[ir.Node, ...],
    weights: ir.Value,
    mask: tuple[ir.Value, ...],
) -> Match:
    """Returns the match that ends with `weights @ value`."""
    final = only_user(weights, "MatMul")
    value = other_factor(final, weights)
    if final.inputs[0] is not weights:
        raise NoMatch("the weights are the second factor of the product with the values")
    for tensor in (scores.query, scores.key, value):
        require_floats(tensor, rank=4)
    # A product of a value with itself has one Mul for both.
    nodes = tuple(dict.fromkeys((*scores.nodes, *between, final)))
    inputs = (scores.query, scores.key, value, *mask)
    return Match(nodes, inputs, {"root_scale": scores.root}, scores.moves)


def _find_scores(product: ir.Node) -> _Scores:
    if product.op_type != "MatMul":
        raise NoMatch(f"{product.op_type} comes before it, not MatMul")
    scaled_query, scaled_key = (producer(value, "Mul") for value in product.inputs)
    query, root = _factor(scaled_query)
    turned, key_root = _factor(scaled_key)
    if root != key_root or root <= 0:
        raise NoMatch("query and key are not multiplied by one positive number")
    key, moves = _transposed(turned)
    return _Scores(query, key, root, (scaled_query, scaled_key, product), moves)


def _factor(product: ir.Node) -> tuple[ir.Value, float]:
    """Returns the tensor and the number that a Mul multiplies."""
    for number, tensor in (product.inputs[::-1], product.inputs):
        constant = scalar(number)
        if constant is not None and tensor is not None:
            return tensor, constant
    raise NoMatch("query or key is not multiplied by a number")


def _find_guard(weights: ir.Value) -> tuple[ir.Node, ir.Node]:
    """Finds `where(isnan(weights), 0, weights)`."""
    users = {use.node.op_type: use.node for use in weights.uses()}
    if weights.is_graph_output() or len(weights.uses()) != 2 or set(users) != {"IsNaN", "Where"}:
        raise NoMatch("rows without any key are not turned to 0")
    test, choice = users["IsNaN"], users["Where"]
    condition, zero, kept = choice.inputs
    if condition is not test.outputs[0] or scalar(zero) != 0 or kept is not weights:
        raise NoMatch("rows without any key are not turned to 0")
    return test, choice


def _transposed(turned: ir.Value) -> tuple[ir.Value, tuple[ir.Node, ...]]:
    """Returns the value `[..., n, d]` whose `[..., d, n]` this is, and the nodes that turn it."""
    last = producer(turned, "Transpose", "Reshape")
    if last.op_type == "Transpose":
        if _permutation(last) != (0, 1, 3, 2):
            raise NoMatch("the key's last two axes are not exchanged")
        return first_input(last), (last,)
    middle = producer(first_input(last), "Transpose")
    first = producer(first_input(middle), "Reshape")
    key = first_input(first)
    require_floats(key, rank=4)
    batch, heads, count, depth = (_size(key, axis) for axis in range(4))
    flat = [-1, count, depth]
    back = [batch, heads, depth, count]
    if (_shape(first), _permutation(middle), _shape(last)) != (flat, (0, 2, 1), back):
        raise NoMatch("the key's last two axes are not exchanged")
    return key, (first, middle, last)


def _permutation(transpose: ir.Node) -> tuple[int, ...]:
    return tuple(transpose.attributes.get_ints("perm", ()))


def _shape(reshape: ir.Node) -> list[Size]:
    """Returns the shape that a Reshape asks for. A zero would copy a size: it is no size here."""
    return _evaluate(reshape.inputs[1])


def _evaluate(value: ir.Value | None) -> list[Size]:
    """Returns the elements of a vector that the graph computes from shapes."""
    if value is None or value.is_graph_input():
        raise NoMatch("the key is brought into a shape that is not known")
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None:
        return [int(number) for number in tensor.numpy().reshape(-1)]
    node = producer(value, "Shape", "Slice", "Concat")
    if node.op_type == "Concat":
        return [size for part in node.inputs for size in _evaluate(part)]
    if node.op_type == "Slice":
        if len(node.inputs) > 3:
            raise NoMatch("the key is brought into a shape that is not known")
        first, last = (_number(bound) for bound in node.inputs[1:3])
        return _evaluate(node.inputs[0])[first:last]
    source = first_input(node)
    axes = range(len(source.shape) if source.shape is not None else 0)
    bounds = slice(node.attributes.get_int("start", 0), _end(node))
    return [_size(source, axis) for axis in axes][bounds]


def _end(shape: ir.Node) -> int | None:
    return shape.attributes.get_int("end", 0) if "end" in shape.attributes else None


def _number(value: ir.Value | None) -> int:
    [number] = _evaluate(value)
    if not isinstance(number, int):
        raise NoMatch("the key is brought into a shape that is not known")
    return number


def _size(value: ir.Value, axis: int) -> Size:
    known = None if value.shape is None else value.shape[axis]
    return known if isinstance(known, int) else (value, axis)


# With exactly the operators that were there: scales on both sides of the product.
_ROOT = "r = Constant <value_float: float = @root_scale> ()  root = CastLike(r, query)"
_PRODUCT = (
    f"{_ROOT}  turned = Transpose <perm = [0, 1, 3, 2]> (key)  "
    "q = Mul(query, root)  k = Mul(turned, root)  scores = MatMul(q, k)"
)
_GUARD = (
    "z = Constant <value_float: float = 0.0> ()  zero = CastLike(z, query)  "
    "empty = IsNaN(weights)  kept = Where(empty, zero, weights)"
)

ATTENTION = Pattern(
    "ScaledAttention",
    "Softmax",
    find_attention,
    ("query", "key", "value"),
    ("root_scale",),
    f"{_PRODUCT}  weights = Softmax <axis = -1> (scores)  y = MatMul(weights, value)",
)
MASKED_ATTENTION = Pattern(
    "MaskedAttention",
    "Softmax",
    find_masked_attention,
    ("query", "key", "value", "mask"),
    ("root_scale",),
    f"{_PRODUCT}  masked = Add(scores, mask)  weights = Softmax <axis = -1> (masked)  "
    f"{_GUARD}  y = MatMul(kept, value)",
)
