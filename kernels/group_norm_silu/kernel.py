"""GroupNorm and SiLU: for NCHW one program a group, for channels-last three kernels in a row.

In NCHW a group is one stretch of memory. In channels-last its channels are a few bytes in every
pixel, so programs there take all channels of some pixels, and their moments are put together.
"""

import triton
import triton.language as tl

from ..silu.kernel import swish


@triton.jit
def group_resident_fwd_kernel(
    p_x,
    p_weight,
    p_bias,
    width,
    pixels,
    p_y,
    GROUPS: tl.constexpr,
    EPSILON: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    """y = silu((x - mean) * rstd * weight + bias), NCHW, a group that fits the registers.

    One program reads one group of one picture, `[width, pixels]`, once. Mean first, then the
    squares of the differences, in fp32.
    """
    i_group = tl.program_id(0).to(tl.int64)
    o_channel = tl.arange(0, BLOCK_CHANNELS)
    o_pixel = tl.arange(0, BLOCK_PIXELS)
    o_x = i_group * width * pixels + o_channel[:, None] * pixels + o_pixel[None, :]
    m_channel = o_channel < width
    m_x = m_channel[:, None] & (o_pixel < pixels)[None, :]
    b_x = tl.load(p_x + o_x, mask=m_x, other=0.0).to(tl.float32)
    o_weight = (i_group % GROUPS) * width + o_channel
    b_weight = tl.load(p_weight + o_weight, mask=m_channel, other=0.0).to(tl.float32)
    b_bias = tl.load(p_bias + o_weight, mask=m_channel, other=0.0).to(tl.float32)

    size = (width * pixels).to(tl.float32)
    mean = tl.sum(tl.sum(b_x, axis=1), axis=0) / size
    b_centred = tl.where(m_x, b_x - mean, 0.0)
    variance = tl.sum(tl.sum(b_centred * b_centred, axis=1), axis=0) / size
    b_scale = b_weight * tl.rsqrt(variance + EPSILON)
    b_y = swish(b_centred * b_scale[:, None] + b_bias[:, None])
    tl.store(p_y + o_x, b_y.to(p_y.dtype.element_ty), mask=m_x)


@triton.jit
def group_streamed_fwd_kernel(
    p_x,
    p_weight,
    p_bias,
    width,
    pixels,
    p_y,
    GROUPS: tl.constexpr,
    EPSILON: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """y = silu((x - mean) * rstd * weight + bias), NCHW, a group of any size.

    One program reads one group of one picture, `[width, pixels]`, twice: for the moments by
    Welford's update in each lane, and to apply them channel by channel, so that weight and bias
    are scalars and every access stays along a channel's pixels.
    """
    i_group = tl.program_id(0).to(tl.int64)
    o_block = tl.arange(0, BLOCK)
    size = width * pixels
    p_group = p_x + i_group * size

    b_mean = tl.zeros([BLOCK], tl.float32)
    b_squares = tl.zeros([BLOCK], tl.float32)
    b_count = tl.zeros([BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        m_x = start + o_block < size
        b_x = tl.load(p_group + start + o_block, mask=m_x, other=0.0).to(tl.float32)
        b_count += tl.where(m_x, 1.0, 0.0)
        b_delta = tl.where(m_x, b_x - b_mean, 0.0)
        b_mean += b_delta / tl.maximum(b_count, 1.0)
        b_squares += b_delta * (b_x - b_mean)
    # Chan's way to join the lanes: their own squares, and those of their means about the mean.
    mean = tl.sum(b_mean * b_count, axis=0) / size.to(tl.float32)
    b_squares += b_count * (b_mean - mean) * (b_mean - mean)
    rstd = tl.rsqrt(tl.sum(b_squares, axis=0) / size.to(tl.float32) + EPSILON)

    first_channel = (i_group % GROUPS) * width
    for channel in range(width):
        scale = tl.load(p_weight + first_channel + channel).to(tl.float32) * rstd
        bias = tl.load(p_bias + first_channel + channel).to(tl.float32)
        o_channel = i_group * size + channel * pixels
        for start in range(0, pixels, BLOCK):
            m_x = start + o_block < pixels
            o_x = o_channel + start + o_block
            b_x = tl.load(p_x + o_x, mask=m_x, other=0.0).to(tl.float32)
            b_y = swish((b_x - mean) * scale + bias)
            tl.store(p_y + o_x, b_y.to(p_y.dtype.element_ty), mask=m_x)


@triton.jit
def pixel_moments_kernel(
    p_x,
    channels,
    pixels,
    p_moments,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """mean[c] and sum((x[c] - mean[c])^2) over some pixels of a channels-last picture.

    One program takes BLOCK_PIXELS pixels of BLOCK_CHANNELS channels of one picture and writes
    two rows of `[batch, blocks, 2, channels]`, fp32.
    """
    i_picture = tl.program_id(0).to(tl.int64)
    i_block = tl.program_id(1).to(tl.int64)
    o_pixel = i_block * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    o_channel = tl.program_id(2) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    o_x = (i_picture * pixels + o_pixel[:, None]) * channels + o_channel[None, :]
    m_channel = o_channel < channels
    m_x = (o_pixel < pixels)[:, None] & m_channel[None, :]
    b_x = tl.load(p_x + o_x, mask=m_x, other=0.0).to(tl.float32)
    count = tl.minimum(pixels - i_block * BLOCK_PIXELS, BLOCK_PIXELS).to(tl.float32)
    b_mean = tl.sum(b_x, axis=0) / count
    b_centred = tl.where(m_x, b_x - b_mean[None, :], 0.0)
    b_squares = tl.sum(b_centred * b_centred, axis=0)
    i_row = i_picture * tl.num_programs(1) + i_block
    p_row = p_moments + i_row * 2 * channels + o_channel
    tl.store(p_row, b_mean, mask=m_channel)
    tl.store(p_row + channels, b_squares, mask=m_channel)


@triton.jit
def fold_moments_kernel(
    p_moments,
    p_weight,
    channels,
    pixels,
    blocks,
    p_affine,
    GROUPS: tl.constexpr,
    EPSILON: tl.constexpr,
    PIXELS_PER_BLOCK: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """mean and weight * rstd for each channel, from the moments of the blocks (Chan et al. 1979).

    One program joins one group of one picture and writes its part of `[batch, 2, channels]`, fp32.
    """
    i_picture = tl.program_id(0).to(tl.int64) // GROUPS
    i_group = tl.program_id(0) % GROUPS
    width = channels // GROUPS
    o_row = tl.arange(0, BLOCK_ROWS)
    o_lane = tl.arange(0, BLOCK_CHANNELS)
    m_channel = o_lane < width
    o_channel = i_group * width + o_lane
    o_moments = (i_picture * blocks + o_row[:, None]) * 2 * channels + o_channel[None, :]

    b_sum = tl.zeros([BLOCK_ROWS, BLOCK_CHANNELS], tl.float32)
    for start in range(0, blocks, BLOCK_ROWS):
        m_row = (start + o_row < blocks)[:, None] & m_channel[None, :]
        b_rest = pixels - (start + o_row) * PIXELS_PER_BLOCK
        b_count = tl.minimum(b_rest, PIXELS_PER_BLOCK).to(tl.float32)
        p_row = p_moments + o_moments + start * 2 * channels
        b_sum += tl.load(p_row, mask=m_row, other=0.0) * b_count[:, None]
    size = (width * pixels).to(tl.float32)
    mean = tl.sum(tl.sum(b_sum, axis=1), axis=0) / size

    b_squares = tl.zeros([BLOCK_ROWS, BLOCK_CHANNELS], tl.float32)
    for start in range(0, blocks, BLOCK_ROWS):
        m_row = (start + o_row < blocks)[:, None] & m_channel[None, :]
        b_rest = pixels - (start + o_row) * PIXELS_PER_BLOCK
        b_count = tl.minimum(b_rest, PIXELS_PER_BLOCK).to(tl.float32)
        p_row = p_moments + o_moments + start * 2 * channels
        b_delta = tl.load(p_row, mask=m_row, other=0.0) - mean
        b_inner = tl.load(p_row + channels, mask=m_row, other=0.0)
        b_squares += tl.where(m_row, b_inner + b_count[:, None] * b_delta * b_delta, 0.0)
    variance = tl.sum(tl.sum(b_squares, axis=1), axis=0) / size

    b_weight = tl.load(p_weight + o_channel, mask=m_channel, other=0.0).to(tl.float32)
    p_row = p_affine + i_picture * 2 * channels + o_channel
    tl.store(p_row, tl.zeros([BLOCK_CHANNELS], tl.float32) + mean, mask=m_channel)
    tl.store(p_row + channels, b_weight * tl.rsqrt(variance + EPSILON), mask=m_channel)


@triton.jit
def pixel_apply_kernel(
    p_x,
    p_affine,
    p_bias,
    channels,
    pixels,
    p_y,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """y = silu((x - mean[c]) * scale[c] + bias[c]), channels-last.

    One program takes BLOCK_PIXELS pixels of BLOCK_CHANNELS channels of one picture; mean and scale
    are `[batch, 2, channels]`, fp32.
    """
    i_picture = tl.program_id(0).to(tl.int64)
    o_pixel = tl.program_id(1).to(tl.int64) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    o_channel = tl.program_id(2) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    o_x = (i_picture * pixels + o_pixel[:, None]) * channels + o_channel[None, :]
    m_channel = o_channel < channels
    m_x = (o_pixel < pixels)[:, None] & m_channel[None, :]
    p_row = p_affine + i_picture * 2 * channels + o_channel
    b_x = tl.load(p_x + o_x, mask=m_x, other=0.0).to(tl.float32)
    b_mean = tl.load(p_row, mask=m_channel, other=0.0)
    b_scale = tl.load(p_row + channels, mask=m_channel, other=0.0)
    b_bias = tl.load(p_bias + o_channel, mask=m_channel, other=0.0).to(tl.float32)
    b_y = swish((b_x - b_mean[None, :]) * b_scale[None, :] + b_bias[None, :])
    tl.store(p_y + o_x, b_y.to(p_y.dtype.element_ty), mask=m_x)
