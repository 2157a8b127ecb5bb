"""GroupNorm and SiLU for callers: checks, and launches the kernels of the memory format."""

import torch
from torch import Tensor

from ..dispatch import block_count, launch, next_power_of_two, runs_triton
from .reference import group_norm_silu_reference

# fp32 values of a group that sixteen warps keep in registers, 32 in each thread.
RESIDENT_LIMIT = 16384
RESIDENT_WARPS = 16
STREAMED_BLOCK = 4096
STREAMED_WARPS = 16
# Channels-last: 128 bytes of neighbouring channels in half precision; the moments of a block are
# then 3 % of what it read.
BLOCK_PIXELS = 128
BLOCK_CHANNELS = 64
PIXEL_WARPS = 8
FOLD_ROWS = 32


def group_norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, *, group_count: int, epsilon: float = 1e-5
) -> Tensor:
    """Returns `silu(h)`, `h = (x - mean) / sqrt(var + epsilon) * weight + bias`, like `x`.

    Mean and variance are those of each picture's group of channels over all pixels, in fp32.

    Args:
        x: `[batch, channels, ...]`, NCHW or channels-last; the result has the same format.
        weight: `[channels]`.
        bias: `[channels]`.
        group_count: groups, all of one width.
        epsilon: keeps the root from zero.

    Raises:
        ValueError: shapes or dtypes do not fit each other.
        RuntimeError: `SANGSANG_KERNELS=triton` where the kernels cannot run.
    """
    _check(x, weight, bias, group_count)
    if not runs_triton("group_norm_silu", x, weight, bias):
        return group_norm_silu_reference(x, weight, bias, group_count, epsilon)
    weight, bias = weight.contiguous(), bias.contiguous()
    if x.numel() == 0:
        return torch.empty_like(x)
    if x.ndim == 4 and _is_channels_last(x):
        return _launch_channels_last(x, weight, bias, group_count, epsilon)
    return _launch(x.contiguous(), weight, bias, group_count, epsilon)


def resident_blocks(width: int, pixels: int) -> tuple[int, int] | None:
    """Returns the tile that holds a whole group, channels by pixels; None if registers do not."""
    tile = next_power_of_two(width), next_power_of_two(pixels)
    return tile if tile[0] * tile[1] <= RESIDENT_LIMIT else None


def _check(x: Tensor, weight: Tensor, bias: Tensor, group_count: int) -> None:
    channels = x.shape[1] if x.ndim > 1 else 0
    divides = group_count > 0 and channels > 0 and channels % group_count == 0
    if not divides or weight.shape != (channels,) or bias.shape != (channels,):
        raise ValueError(
            "group_norm_silu takes [batch, channels, ...], [channels], [channels] and groups that "
            f"divide the channels, not {tuple(x.shape)}, {tuple(weight.shape)}, "
            f"{tuple(bias.shape)} and {group_count}"
        )
    if not (x.is_floating_point() and weight.is_floating_point() and bias.is_floating_point()):
        dtypes = f"{x.dtype}, {weight.dtype}, {bias.dtype}"
        raise ValueError(f"group_norm_silu takes floats, not {dtypes}")


def _is_channels_last(x: Tensor) -> bool:
    last = x.is_contiguous(memory_format=torch.channels_last)
    return last and not x.is_contiguous()


def _launch(x: Tensor, weight: Tensor, bias: Tensor, group_count: int, epsilon: float) -> Tensor:
    from .kernel import group_resident_fwd_kernel, group_streamed_fwd_kernel

    batch, channels = x.shape[:2]
    width, pixels = channels // group_count, x.numel() // (batch * channels)
    y = torch.empty_like(x)
    arguments = (x, weight, bias, width, pixels, y)
    grid = (batch * group_count,)
    constants = {"GROUPS": group_count, "EPSILON": epsilon}
    blocks = resident_blocks(width, pixels)
    if blocks is not None:
        constants |= {"BLOCK_CHANNELS": blocks[0], "BLOCK_PIXELS": blocks[1]}
        warps = resident_warps(blocks)
        launch(group_resident_fwd_kernel, grid, *arguments, **constants, num_warps=warps)
    else:
        constants |= {"BLOCK": STREAMED_BLOCK, "num_warps": STREAMED_WARPS}
        launch(group_streamed_fwd_kernel, grid, *arguments, **constants)
    return y


def resident_warps(blocks: tuple[int, int]) -> int:
    """Returns the warps of a program that keeps a tile: 32 values a thread, at least one warp."""
    return max(1, min(RESIDENT_WARPS, blocks[0] * blocks[1] // 1024))


def _launch_channels_last(
    x: Tensor, weight: Tensor, bias: Tensor, group_count: int, epsilon: float
) -> Tensor:
    from .kernel import fold_moments_kernel, pixel_apply_kernel, pixel_moments_kernel

    batch, channels = x.shape[:2]
    pixels = x.numel() // (batch * channels)
    blocks = block_count(pixels, BLOCK_PIXELS)
    moments = torch.empty((batch, blocks, 2, channels), dtype=torch.float32, device=x.device)
    affine = torch.empty((batch, 2, channels), dtype=torch.float32, device=x.device)
    y = torch.empty_like(x)
    grid = (batch, blocks, block_count(channels, BLOCK_CHANNELS))
    tile = {
        "BLOCK_PIXELS": BLOCK_PIXELS,
        "BLOCK_CHANNELS": BLOCK_CHANNELS,
        "num_warps": PIXEL_WARPS,
    }
    launch(pixel_moments_kernel, grid, x, channels, pixels, moments, **tile)
    launch(
        fold_moments_kernel,
        (batch * group_count,),
        *(moments, weight, channels, pixels, blocks, affine),
        GROUPS=group_count,
        EPSILON=epsilon,
        PIXELS_PER_BLOCK=BLOCK_PIXELS,
        BLOCK_ROWS=FOLD_ROWS,
        BLOCK_CHANNELS=next_power_of_two(channels // group_count),
    )
    launch(pixel_apply_kernel, grid, x, affine, bias, channels, pixels, y, **tile)
    return y
