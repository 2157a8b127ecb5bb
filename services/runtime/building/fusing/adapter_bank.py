"""Adapters' low-rank products as `bank_graph.py` writes them and `take_products` leaves them."""

import onnx_ir as ir

from ...engines.adapter_bank import SCALE_NAME
from .matching import (
    Match,
    NoMatch,
    Pattern,
    first_input,
    only_user,
    other_factor,
    producer,
    require_floats,
)

_TOKENS = 3


def is_of_scales(gather: ir.Node) -> bool:
    """Tells whether a Gather spreads a batch's scales over the columns of a layer's adapters."""
    unsqueeze = first_input(gather).producer()
    return unsqueeze is not None and any(
        value is not None and value.name == SCALE_NAME for value in _sources(unsqueeze)
    )


def find_lora_bank(gather: ir.Node) -> Match:
    """`y + (x @ down * scale[row]) @ up`, at the Gather of the scales; `y` is `x @ weight`."""
    scale = gather.outputs[0]
    scaled = only_user(scale, "Mul")
    low = producer(other_factor(scaled, scale), "MatMul")
    x, down = low.inputs
    product = only_user(scaled.outputs[0], "MatMul")
    total = only_user(product.outputs[0], "Add")
    y = other_factor(total, product.outputs[0])
    layer = producer(y, "MatMul")
    if layer.inputs[0] is not x or product.inputs[0] is not scaled.outputs[0]:
        raise NoMatch("it is not added to what its layer makes of the same input")
    if x is None or down is None or product.inputs[1] is None:
        raise NoMatch("a factor is missing")
    require_floats(x, rank=_TOKENS)
    for matrix in (down, product.inputs[1], layer.inputs[1]):
        _require_matrix(matrix)
    _require_rows(gather)
    return Match((low, scaled, product, total), (x, y, down, product.inputs[1], scale))


def _sources(unsqueeze: ir.Node) -> tuple[ir.Value | None, ...]:
    """Returns what an Unsqueeze is of; of both parts where rows are taken twice."""
    source = first_input(unsqueeze)
    parts = source.producer()
    return (source,) if parts is None else tuple(parts.inputs)


def _require_rows(gather: ir.Node) -> None:
    """Checks that the scales are `[rows, 1, rank]`: one for each row, the same for its tokens."""
    unsqueeze = producer(first_input(gather), "Unsqueeze")
    axes = ir.convenience.get_const_tensor(unsqueeze.inputs[1]) if unsqueeze.inputs[1] else None
    known = None if axes is None else axes.numpy().reshape(-1).tolist()
    if first_input(unsqueeze).name != SCALE_NAME or known != [1]:
        raise NoMatch("its scales are not one for each row and column")
    if gather.attributes.get_int("axis", 0) != _TOKENS - 1:
        raise NoMatch("its scales are not gathered along the columns")


def _require_matrix(value: ir.Value | None) -> None:
    turned = None if value is None else value.producer()
    if turned is not None and turned.op_type == "Transpose":
        value = turned.inputs[0]
    if value is None or value.shape is None or len(value.shape) != 2:
        raise NoMatch("a factor is not known to be a matrix")


# The scales stay f32 where the rest is in half precision, as the kernel takes them.
LORA_BANK = Pattern(
    "LoraBank",
    "Gather",
    find_lora_bank,
    ("x", "y0", "down", "up", "scale"),
    (),
    "low = MatMul(x, down)  s = CastLike(scale, low)  scaled = Mul(low, s)  "
    "product = MatMul(scaled, up)  y = Add(y0, product)",
    is_of_scales,
)
