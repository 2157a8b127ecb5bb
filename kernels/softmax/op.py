"""Softmax for callers: checks, takes memory, and launches the kernel or calls the reference."""

import torch
from torch import Tensor

from ..dispatch import launch, next_power_of_two, row_warps, runs_triton
from .reference import softmax_reference

# Columns of a row that a program's registers hold.
WIDTH_LIMIT = 16384


def softmax(x: Tensor) -> Tensor:
    """Returns `exp(x - max) / sum(exp(x - max))` over the last dimension, like `x`.

    Rows of more than 16384 columns are left to the reference; inside attention, of any length, the
    `attention` kernel never writes a softmax to memory at all.

    Args:
        x: `[..., width]`, any strides.

    Raises:
        ValueError: it has no last dimension, an empty one, or is not floating point.
        RuntimeError: `SANGSANG_KERNELS=triton` where the kernel cannot run.
    """
    if x.ndim == 0 or x.shape[-1] == 0 or not x.is_floating_point():
        raise ValueError(f"softmax takes floats [..., width], not {x.dtype} {tuple(x.shape)}")
    if x.shape[-1] > WIDTH_LIMIT or not runs_triton("softmax", x):
        return softmax_reference(x)
    return _launch(x.contiguous())


def _launch(x: Tensor) -> Tensor:
    from .kernel import softmax_fwd_kernel

    width = x.shape[-1]
    block = next_power_of_two(width)
    y = torch.empty_like(x)
    grid = (x.numel() // width,)
    launch(softmax_fwd_kernel, grid, x, width, y, BLOCK=block, num_warps=row_warps(block))
    return y
