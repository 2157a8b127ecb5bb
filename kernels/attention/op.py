"""Attention for callers: checks, takes memory, and launches the kernel or calls the reference."""

import math

import torch
from torch import Tensor

from ..dispatch import block_count, launch, next_power_of_two, runs_triton
from .reference import attention_reference

# Deeper heads would not fit the registers; no diffusion model has them.
DEPTH_LIMIT = 256
# The least that a tensor core multiplies.
_LEAST_DEPTH_BLOCK = 16
_MOST_UNIT = 16
WARPS = 4
STAGES = 2


def attention(query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None) -> Tensor:
    """Returns `softmax(query @ key^T * scale) @ value`, `[batch, heads, queries, depth]`.

    No mask: every query sees every key. The result lies in memory as `[batch, queries, heads,
    depth]`, so joining the heads afterwards moves nothing. Heads of a depth beyond 256 are left to
    the reference.

    Args:
        query: `[batch, heads, queries, depth]`; any strides, a copy is made only where a head's
            values are not neighbours.
        key: `[batch, heads, keys, depth]`, at least one key.
        value: like `key`.
        scale: factor of the products; None for `depth ** -0.5`.

    Raises:
        ValueError: shapes or dtypes do not fit each other.
        RuntimeError: `SANGSANG_KERNELS=triton` where the kernel cannot run.
    """
    _check(query, key, value)
    depth = query.shape[-1]
    factor = depth**-0.5 if scale is None else scale
    if depth > DEPTH_LIMIT or not runs_triton("attention", query, key, value):
        return attention_reference(query, key, value, factor)
    return _launch(_packed(query), _packed(key), _packed(value), factor)


def depth_blocks(depth: int) -> tuple[int, int]:
    """Returns the two powers of two that hold a depth, the second 0 if the first does alone."""
    whole = max(next_power_of_two(depth), _LEAST_DEPTH_BLOCK)
    main = whole // 2
    rest = max(next_power_of_two(depth - main), _LEAST_DEPTH_BLOCK)
    return (main, rest) if main >= _LEAST_DEPTH_BLOCK and main + rest < whole else (whole, 0)


def tile_blocks(dtype: torch.dtype) -> tuple[int, int]:
    """Returns queries and keys of a tile: fp32 takes twice the registers and shared memory."""
    return (32, 32) if dtype == torch.float32 else (64, 64)


def stride_unit(*strides: int) -> int:
    """Returns the greatest power of two up to 16 that divides strides: the kernel's UNIT.

    Triton's launcher tells its compiler of multiples of 16 alone. Heads of 40 values beside each
    other are multiples of 8, which is all that accesses of 16 bytes need in half precision.
    """
    return math.gcd(_MOST_UNIT, *strides)


def launch_strides(query: Tensor, key: Tensor, value: Tensor) -> tuple[int, tuple[int, ...]]:
    """Returns the kernel's UNIT, and batch, head and token strides of the three in such units."""
    strides = [stride for tensor in (query, key, value) for stride in tensor.stride()[:3]]
    unit = stride_unit(*strides)
    return unit, tuple(stride // unit for stride in strides)


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    shapes = tuple(query.shape), tuple(key.shape), tuple(value.shape)
    fits = query.ndim == key.ndim == 4 and shapes[1] == shapes[2]
    fits = fits and shapes[0][:2] == shapes[1][:2] and shapes[0][3] == shapes[1][3]
    if not (fits and shapes[1][2] > 0 and shapes[0][3] > 0):
        raise ValueError(
            "attention takes [batch, heads, queries, depth] and twice [batch, heads, keys, depth], "
            f"not {shapes}"
        )
    if not (query.dtype == key.dtype == value.dtype and query.is_floating_point()):
        dtypes = f"{query.dtype}, {key.dtype}, {value.dtype}"
        raise ValueError(f"attention takes floats of one dtype, not {dtypes}")


def _packed(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _launch(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    from .kernel import attention_fwd_kernel

    batch, heads, queries, depth = query.shape
    shape = (batch, queries, heads, depth)
    out = torch.empty(shape, dtype=query.dtype, device=query.device)
    block_queries, block_keys = tile_blocks(query.dtype)
    main, rest = depth_blocks(depth)
    unit, strides = launch_strides(query, key, value)
    launch(
        attention_fwd_kernel,
        (block_count(queries, block_queries), batch * heads),
        *(query, key, value, heads, queries, key.shape[2], *strides, out),
        UNIT=unit,
        SCALE_LOG2=scale * math.log2(math.e),
        DEPTH=depth,
        BLOCK_QUERIES=block_queries,
        BLOCK_KEYS=block_keys,
        BLOCK_DEPTH=main,
        BLOCK_REST=rest,
        num_warps=WARPS,
        num_stages=STAGES,
    )
    return out.transpose(1, 2)
