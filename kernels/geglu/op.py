"""GEGLU for callers: checks, takes memory, and launches the kernel or calls the reference."""

import torch
from torch import Tensor

from ..dispatch import block_count, launch, runs_triton
from .reference import geglu_reference

# A thread of four warps takes eight neighbours: one 16-byte access in half precision.
BLOCK = 1024


def geglu(projected: Tensor) -> Tensor:
    """Returns `value * gelu(gate)`, `[..., width]`, in the input's dtype.

    Args:
        projected: `[..., 2 * width]`, a row is the value and then the gate; any strides.

    Raises:
        ValueError: it has no last dimension that halves, or is not floating point.
        RuntimeError: `SANGSANG_KERNELS=triton` where the kernel cannot run.
    """
    if projected.ndim == 0 or projected.shape[-1] % 2 or not projected.is_floating_point():
        shape = tuple(projected.shape)
        raise ValueError(f"geglu takes floats [..., 2 * width], not {projected.dtype} {shape}")
    if not runs_triton("geglu", projected):
        return geglu_reference(projected)
    return _launch(projected.contiguous())


def _launch(projected: Tensor) -> Tensor:
    from .kernel import geglu_fwd_kernel

    width = projected.shape[-1] // 2
    shape = (*projected.shape[:-1], width)
    y = torch.empty(shape, dtype=projected.dtype, device=projected.device)
    grid = (y.numel() // max(width, 1), block_count(width, BLOCK))
    launch(geglu_fwd_kernel, grid, projected, width, y, BLOCK=BLOCK)
    return y
