"""What the patterns share: how a match is described, and small questions about a graph.

Every question raises `NoMatch` with the reason when the answer is no, so that a pattern reads as
the list of what has to hold and the report can say what did not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

# What the kernels take.
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
# Operators whose result has the type of their first input. ONNX infers no type for some of them.
_TYPE_KEEPING = (
    *("Add", "Conv", "Div", "Gelu", "Gemm", "GroupNormalization", "LayerNormalization", "MatMul"),
    *("Mul", "Neg", "Reshape", "Sigmoid", "Softmax", "Split", "Sub", "Transpose"),
)


class NoMatch(Exception):
    """The pattern is not here; the message says what is otherwise."""


@dataclass(frozen=True, slots=True)
class Match:
    """Nodes that one fused node can stand for.

    Attributes:
        nodes: what is replaced, the one with the result last. Nothing else may use what they give.
        inputs: of the fused node.
        attributes: of the fused node, besides those that every one has.
        moves: nodes that only turn an input round; they stay if something else uses them.
    """

    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    attributes: Mapping[str, int | float] = field(default_factory=dict[str, int | float])
    moves: tuple[ir.Node, ...] = ()


def _every(node: ir.Node) -> bool:  # noqa: ARG001
    return True


@dataclass(frozen=True, slots=True)
class Pattern:
    """One fused operation: how to find it, and its maths in standard operators.

    Attributes:
        name: its operation in our domain. No standard operator may have it: TensorRT's parser
            looks at names alone.
        anchor: operator at which a match is looked for.
        find: returns the match around such a node, or raises `NoMatch`.
        inputs: names of its inputs in `body`.
        attributes: names of its own attributes, in the order in which the plugin registers them.
        body: ONNX text that computes `y`.
        begins: tells whether an anchor may begin a match at all; of others nothing is said.
    """

    name: str
    anchor: str
    find: Callable[[ir.Node], Match]
    inputs: tuple[str, ...]
    attributes: tuple[str, ...]
    body: str
    begins: Callable[[ir.Node], bool] = _every


def producer(value: ir.Value | None, *op_types: str) -> ir.Node:
    """Returns the node that makes a value, which is one of some standard operators."""
    node = None if value is None else value.producer()
    wanted = " or ".join(op_types)
    if node is None:
        raise NoMatch(f"there is no {wanted} before it")
    if node.domain or node.op_type not in op_types:
        raise NoMatch(f"{node.op_type} comes before it, not {wanted}")
    return node


def only_user(value: ir.Value, op_type: str) -> ir.Node:
    """Returns the only node that uses a value, which is a standard operator."""
    users = list(dict.fromkeys(use.node for use in value.uses()))
    if len(users) != 1:
        raise NoMatch(f"{value.name} is used by {len(users)} nodes, not by one {op_type}")
    if users[0].domain or users[0].op_type != op_type:
        raise NoMatch(f"{users[0].op_type} follows it, not {op_type}")
    return users[0]


def first_input(node: ir.Node) -> ir.Value:
    """Returns a node's first input."""
    value = node.inputs[0] if node.inputs else None
    if value is None:
        raise NoMatch(f"{node.op_type} has no input")
    return value


def other_factor(product: ir.Node, factor: ir.Value) -> ir.Value:
    """Returns the factor of a binary node beside a known one."""
    left, right = product.inputs
    other = right if left is factor else left
    if other is None or other is factor:
        raise NoMatch(f"{product.op_type} takes one value twice")
    return other


def is_last_axis(value: ir.Value, axis: int) -> bool:
    """Tells whether an axis is the last of a value; one counted from the front needs its rank."""
    return axis == -1 or (value.shape is not None and axis == len(value.shape) - 1)


def require_floats(value: ir.Value, rank: int | None = None) -> None:
    """Checks that the kernels take a value: a known type, and the rank if one is asked for."""
    dtype = known_dtype(value)
    if dtype not in _FLOATS:
        kind = "unknown type" if dtype is None else dtype.name
        raise NoMatch(f"{value.name} is of {kind}; the kernels take fp32, fp16 and bf16")
    if rank is not None and (value.shape is None or len(value.shape) != rank):
        raise NoMatch(f"{value.name} is not known to have {rank} axes")


def known_dtype(value: ir.Value) -> ir.DataType | None:
    """Returns a value's type, from what it is computed from if it is not stated."""
    while value.dtype is None:
        node = value.producer()
        if node is None or node.domain or node.op_type not in _TYPE_KEEPING or not node.inputs[0]:
            return None
        value = node.inputs[0]
    return value.dtype


def require_per_channel(value: ir.Value | None, what: str) -> ir.Value:
    """Returns a weight or bias if it is there and a vector."""
    if value is None:
        raise NoMatch(f"it has no {what}")
    require_floats(value)
    if value.shape is None or len(value.shape) != 1:
        raise NoMatch(f"its {what} is not a vector")
    return value


def scalar(value: ir.Value | None) -> float | None:
    """Returns the number that a value always is; None if it is none or may change."""
    node = None if value is None else value.producer()
    if node is not None and node.op_type == "CastLike" and not node.domain:
        # Of a number: the exporter matches it to the tensor that it multiplies.
        return scalar(node.inputs[0])
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size != 1 or len(tensor.shape) > 1:
        return None
    # A weight without content cannot be read, and is no number of the architecture.
    return None if isinstance(tensor, ir.ExternalTensor) else float(tensor.numpy().reshape(-1)[0])
