"""Casts for callers: checks, takes memory, and launches the kernel or calls the reference."""

import torch
from torch import Tensor

from ..dispatch import FLOATS, block_count, dense, launch, runs_triton
from .reference import cast_reference

# A thread of four warps takes eight neighbours: one 16-byte access in half precision.
BLOCK = 1024


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the values of `x` in another dtype, in new memory of the same format.

    Args:
        x: fp32, fp16 or bf16, any shape and strides.
        dtype: fp32, fp16 or bf16.

    Raises:
        ValueError: one of the two is another dtype.
        RuntimeError: `SANGSANG_KERNELS=triton` where the kernel cannot run.
    """
    if x.dtype not in FLOATS or dtype not in FLOATS:
        raise ValueError(f"cast takes fp32, fp16 and bf16, not {x.dtype} to {dtype}")
    if not runs_triton("cast", x):
        return cast_reference(x, dtype)
    return _launch(dense(x), dtype)


def _launch(x: Tensor, dtype: torch.dtype) -> Tensor:
    from .kernel import cast_fwd_kernel

    y = torch.empty_like(x, dtype=dtype)
    grid = (block_count(x.numel(), BLOCK),)
    launch(cast_fwd_kernel, grid, x, x.numel(), y, BLOCK=BLOCK)
    return y
