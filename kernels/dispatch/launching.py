"""The launch of a kernel."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Tensor | int, **constants: Any) -> None:
    """Runs a kernel on the GPU that its first argument is on; in the interpreter, on the CPU.

    Args:
        kernel: the `@triton.jit` function.
        grid: programs along each axis; with none along one, nothing is launched.
        arguments: in the kernel's order, the first a tensor.
        constants: compile-time arguments and options of Triton, e.g. `num_warps`.
    """
    first = arguments[0]
    assert isinstance(first, Tensor)
    if all(grid):
        # Triton launches on the current device, whichever the tensors are on.
        with torch.cuda.device(first.device) if first.is_cuda else nullcontext():
            kernel[grid](*arguments, **constants)


def block_count(size: int, block: int) -> int:
    """Returns how many blocks cover a size."""
    return -(-size // block)


def next_power_of_two(size: int) -> int:
    """Returns the least power of two that is not below a size: Triton's blocks are such."""
    return 1 << max(size - 1, 0).bit_length()


def row_warps(block: int) -> int:
    """Returns the warps of a program that keeps a row in registers: 16 values a thread, 1 to 16."""
    return min(max(block // 512, 1), 16)
