"""LayerNorm for callers: checks, takes memory, and launches the kernel or calls the reference."""

import torch
from torch import Tensor

from ..dispatch import launch, next_power_of_two, row_warps, runs_triton
from .reference import layer_norm_reference

# Columns of a row that a program's registers hold.
WIDTH_LIMIT = 16384


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Returns `(x - mean) / sqrt(var + epsilon) * weight + bias`, in the input's shape and dtype.

    Mean and variance are those of each row, in fp32. Rows of more than 16384 columns are left to
    the reference.

    Args:
        x: `[..., width]`, any strides.
        weight: `[width]`.
        bias: `[width]`.
        epsilon: keeps the root from zero.

    Raises:
        ValueError: shapes or dtypes do not fit each other.
        RuntimeError: `SANGSANG_KERNELS=triton` where the kernel cannot run.
    """
    _check(x, weight, bias)
    if x.shape[-1] > WIDTH_LIMIT or not runs_triton("layer_norm", x, weight, bias):
        return layer_norm_reference(x, weight, bias, epsilon)
    return _launch(x.contiguous(), weight.contiguous(), bias.contiguous(), epsilon)


def _check(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    shapes = tuple(x.shape), tuple(weight.shape), tuple(bias.shape)
    if not (x.ndim > 0 and x.shape[-1] > 0 and shapes[1] == shapes[2] == shapes[0][-1:]):
        raise ValueError(f"layer_norm takes [..., width], [width] and [width], not {shapes}")
    if not (x.is_floating_point() and weight.is_floating_point() and bias.is_floating_point()):
        dtypes = f"{x.dtype}, {weight.dtype}, {bias.dtype}"
        raise ValueError(f"layer_norm takes floats, not {dtypes}")


def _launch(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    from .kernel import layer_norm_fwd_kernel

    width = x.shape[-1]
    block = next_power_of_two(width)
    y = torch.empty_like(x)
    launch(
        layer_norm_fwd_kernel,
        (x.numel() // width,),
        *(x, weight, bias, width, y),
        EPSILON=epsilon,
        BLOCK=block,
        num_warps=row_warps(block),
    )
    return y
