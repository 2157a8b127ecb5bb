"""GroupNorm, with and without SiLU, and LayerNorm as diffusers and transformers export them."""

import onnx_ir as ir

from .activations import find_silu
from .matching import (
    Match,
    NoMatch,
    Pattern,
    first_input,
    is_last_axis,
    require_floats,
    require_per_channel,
)

# The operators' own default.
_EPSILON = 1e-5


def find_group_norm(norm: ir.Node) -> Match:
    """`(x - mean) / sqrt(var + eps) * weight + bias` over groups, at the GroupNormalization."""
    x = first_input(norm)
    require_floats(x)
    _require_fp32_moments(norm)
    weight = require_per_channel(_input(norm, 1), "weight")
    bias = require_per_channel(_input(norm, 2), "bias")
    groups = norm.attributes.get_int("num_groups", 0)
    if groups < 1:
        raise NoMatch("it does not say how many groups there are")
    return Match((norm,), (x, weight, bias), {"groups": groups, "eps": _epsilon(norm)})


def find_group_norm_silu(norm: ir.Node) -> Match:
    """`silu(group_norm(x))`, at the GroupNormalization."""
    plain = find_group_norm(norm)
    users = [use.node for use in norm.outputs[0].uses()]
    sigmoids = [user for user in users if user.op_type == "Sigmoid" and not user.domain]
    if not sigmoids:
        followed = ", ".join(sorted({user.op_type for user in users})) or "nothing"
        raise NoMatch(f"{followed} follows it, not SiLU")
    silu = find_silu(sigmoids[0])
    return Match((norm, *silu.nodes), plain.inputs, plain.attributes)


def find_layer_norm(norm: ir.Node) -> Match:
    """`(x - mean) / sqrt(var + eps) * weight + bias` over rows, at the LayerNormalization."""
    x = first_input(norm)
    require_floats(x)
    _require_fp32_moments(norm)
    if not is_last_axis(x, norm.attributes.get_int("axis", -1)):
        raise NoMatch("it is over more than the last axis")
    weight = require_per_channel(_input(norm, 1), "weight")
    bias = require_per_channel(_input(norm, 2), "bias")
    if any(output.uses() or output.is_graph_output() for output in norm.outputs[1:]):
        raise NoMatch("its moments are used elsewhere")
    return Match((norm,), (x, weight, bias), {"eps": _epsilon(norm)})


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if len(node.inputs) > index else None


def _epsilon(norm: ir.Node) -> float:
    return norm.attributes.get_float("epsilon", _EPSILON)


def _require_fp32_moments(norm: ir.Node) -> None:
    stash = norm.attributes.get_int("stash_type", 1)
    if stash != ir.DataType.FLOAT.value:
        raise NoMatch("its moments are not taken in fp32, as the kernel takes them")


_WEIGHTED = ("x", "weight", "bias")
_GROUPS = "GroupNormalization <num_groups: int = @groups, epsilon: float = @eps> (x, weight, bias)"

GROUP_NORM_SILU = Pattern(
    "GroupNormSilu",
    "GroupNormalization",
    find_group_norm_silu,
    _WEIGHTED,
    ("groups", "eps"),
    f"h = {_GROUPS}  s = Sigmoid(h)  y = Mul(h, s)",
)
GROUP_NORM = Pattern(
    "GroupNorm",
    "GroupNormalization",
    find_group_norm,
    _WEIGHTED,
    ("groups", "eps"),
    f"y = {_GROUPS}",
)
LAYER_NORM = Pattern(
    "LayerNorm",
    "LayerNormalization",
    find_layer_norm,
    _WEIGHTED,
    ("eps",),
    "y = LayerNormalization <axis = -1, epsilon: float = @eps> (x, weight, bias)",
)
