"""SiLU for callers: checks, takes memory, and launches the kernel or calls the reference."""

import torch
from torch import Tensor

from ..dispatch import block_count, dense, launch, runs_triton
from .reference import silu_reference

# A thread of four warps takes eight neighbours: one 16-byte access in half precision.
BLOCK = 1024


def silu(x: Tensor) -> Tensor:
    """Returns `x * sigmoid(x)`, in the input's shape, dtype and memory format.

    Args:
        x: any shape and strides; NCHW and channels-last are read as they lie.

    Raises:
        ValueError: it is not floating point.
        RuntimeError: `SANGSANG_KERNELS=triton` where the kernel cannot run.
    """
    if not x.is_floating_point():
        raise ValueError(f"silu takes floats, not {x.dtype} {tuple(x.shape)}")
    if not runs_triton("silu", x):
        return silu_reference(x)
    return _launch(dense(x))


def _launch(x: Tensor) -> Tensor:
    from .kernel import silu_fwd_kernel

    y = torch.empty_like(x)
    grid = (block_count(x.numel(), BLOCK),)
    launch(silu_fwd_kernel, grid, x, x.numel(), y, BLOCK=BLOCK)
    return y
