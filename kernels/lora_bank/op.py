"""The adapter bank for callers: checks, takes memory, and launches the kernel or the reference."""

import torch
from torch import Tensor

from ..dispatch import block_count, launch, next_power_of_two, runs_triton
from .reference import lora_bank_reference

BLOCK_TOKENS = 64
BLOCK_IN = 64
BLOCK_OUT = 64
# Columns of one program. Fewer would fill a GPU with fewer tokens, but each program computes the
# first product again.
SPAN = 512
# Ranks of all adapters together that fit the registers between the two products.
RANK_LIMIT = 128
# The least that a tensor core multiplies.
_LEAST_RANK_BLOCK = 16


def lora_bank(x: Tensor, y: Tensor, down: Tensor, up: Tensor, scale: Tensor) -> Tensor:
    """Returns `y + h @ up`, `h = (x @ down) * scale[row]`, `[rows, tokens, out_width]`.

    A bank of more than 128 ranks is left to the reference.

    Args:
        x: `[rows, tokens, in_width]`, what the layer got.
        y: `[rows, tokens, out_width]`, what the layer made of it, in the dtype of `x`.
        down: `[in_width, rank]`, the `A` of all adapters side by side, in the same dtype.
        up: `[rank, out_width]`, their `B`, in the same dtype.
        scale: `[rows, rank]`, fp32; zeros for the adapters that a row does without.

    Raises:
        ValueError: shapes or dtypes do not fit each other.
        RuntimeError: `SANGSANG_KERNELS=triton` where the kernel cannot run.
    """
    _check(x, y, down, up, scale)
    if down.shape[1] > RANK_LIMIT or not runs_triton("lora_bank", x, y, down, up, scale):
        return lora_bank_reference(x, y, down, up, scale)
    return _launch(*(tensor.contiguous() for tensor in (x, y, down, up, scale)))


def rank_block(rank: int) -> int:
    """Returns the columns of the tile that holds a rank: a power of two that tensor cores take."""
    return max(next_power_of_two(rank), _LEAST_RANK_BLOCK)


def _check(x: Tensor, y: Tensor, down: Tensor, up: Tensor, scale: Tensor) -> None:
    shapes = [tuple(tensor.shape) for tensor in (x, y, down, up, scale)]
    if x.ndim == y.ndim == 3 and down.ndim == up.ndim == 2:
        (rows, tokens, in_width), out_width, rank = shapes[0], shapes[1][2], shapes[2][1]
        expected = [shapes[0], (rows, tokens, out_width), (in_width, rank), (rank, out_width)]
        fits = shapes == [*expected, (rows, rank)]
    else:
        fits = False
    if not fits:
        raise ValueError(
            "lora_bank takes [rows, tokens, in], [rows, tokens, out], [in, rank], [rank, out] and "
            f"[rows, rank], not {shapes}"
        )
    same = x.dtype == y.dtype == down.dtype == up.dtype and x.is_floating_point()
    if not same or scale.dtype != torch.float32:
        raise ValueError("lora_bank takes floats of one dtype, and scales in fp32")


def _launch(x: Tensor, y: Tensor, down: Tensor, up: Tensor, scale: Tensor) -> Tensor:
    from .kernel import lora_bank_fwd_kernel

    rows, row_tokens, in_width = x.shape
    rank, out_width = up.shape
    out = torch.empty_like(y)
    launch(
        lora_bank_fwd_kernel,
        (block_count(rows * row_tokens, BLOCK_TOKENS), block_count(out_width, SPAN)),
        *(x, y, down, up, scale, row_tokens, rows * row_tokens, in_width, out_width, rank, out),
        BLOCK_TOKENS=BLOCK_TOKENS,
        BLOCK_IN=BLOCK_IN,
        BLOCK_RANK=rank_block(rank),
        BLOCK_OUT=BLOCK_OUT,
        SPAN=min(SPAN, block_count(out_width, BLOCK_OUT) * BLOCK_OUT),
    )
    return out
