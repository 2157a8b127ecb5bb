"""SiLU, GELU and GEGLU as diffusers exports them."""

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
)


def find_silu(sigmoid: ir.Node) -> Match:
    """`x * sigmoid(x)`, at the Sigmoid."""
    x = first_input(sigmoid)
    require_floats(x)
    product = only_user(sigmoid.outputs[0], "Mul")
    if other_factor(product, sigmoid.outputs[0]) is not x:
        raise NoMatch("what the sigmoid is multiplied by is not what it is taken of")
    return Match((sigmoid, product), (x,))


def find_gelu(gelu: ir.Node) -> Match:
    """`x * (1 + erf(x / sqrt 2)) / 2`, at the Gelu."""
    x = first_input(gelu)
    _require_exact(gelu)
    require_floats(x)
    return Match((gelu,), (x,))


def find_geglu(gelu: ir.Node) -> Match:
    """`value * gelu(gate)` of the halves of each row, at the Gelu."""
    _require_exact(gelu)
    gate = first_input(gelu)
    split = producer(gate, "Split")
    x = first_input(split)
    require_floats(x)
    _require_halves(split, x)
    if gate is not split.outputs[1]:
        raise NoMatch("the gelu is of the first half, the gate has to be the second")
    product = only_user(gelu.outputs[0], "Mul")
    if other_factor(product, gelu.outputs[0]) is not split.outputs[0]:
        raise NoMatch("the gelu of the second half is not multiplied by the first")
    return Match((split, gelu, product), (x,))


def _require_exact(gelu: ir.Node) -> None:
    form = gelu.attributes.get_string("approximate", "none")
    if form != "none":
        raise NoMatch(f"the gelu is approximated by {form}, the kernel's is exact")


def _require_halves(split: ir.Node, x: ir.Value) -> None:
    if len(split.outputs) != 2:
        raise NoMatch(f"the row is split into {len(split.outputs)}")
    if not is_last_axis(x, split.attributes.get_int("axis", 0)):
        raise NoMatch("the split is not known to be of the last axis")
    width = None if x.shape is None else x.shape[-1]
    if not isinstance(width, int) or width % 2:
        raise NoMatch("the width of a row is not known to be even")
    sizes = split.inputs[1] if len(split.inputs) > 1 else None
    if sizes is None:
        return
    tensor = None if sizes.is_graph_input() else ir.convenience.get_const_tensor(sizes)
    if tensor is None or tensor.numpy().tolist() != [width // 2] * 2:
        raise NoMatch("the row is not known to be split into halves")


GEGLU = Pattern(
    "Geglu",
    "Gelu",
    find_geglu,
    ("x",),
    (),
    "value, gate = Split <axis = -1, num_outputs = 2> (x)  g = Gelu(gate)  y = Mul(value, g)",
)
GELU = Pattern("ExactGelu", "Gelu", find_gelu, ("x",), (), "y = Gelu(x)")
SILU = Pattern("Silu", "Sigmoid", find_silu, ("x",), (), "s = Sigmoid(x)  y = Mul(x, s)")
