"""LayerNorm in one trip to memory."""

import triton
import triton.language as tl


@triton.jit
def layer_norm_fwd_kernel(
    p_x, p_weight, p_bias, width, p_y, EPSILON: tl.constexpr, BLOCK: tl.constexpr
):
    """y = (x - mean) * rstd * weight + bias.

    One program computes one row, `[width]`, which stays in registers between the moments and y.
    """
    i_row = tl.program_id(0).to(tl.int64)
    o_column = tl.arange(0, BLOCK)
    m_column = o_column < width
    b_x = tl.load(p_x + i_row * width + o_column, mask=m_column, other=0.0).to(tl.float32)
    b_weight = tl.load(p_weight + o_column, mask=m_column, other=0.0).to(tl.float32)
    b_bias = tl.load(p_bias + o_column, mask=m_column, other=0.0).to(tl.float32)
    mean = tl.sum(b_x, axis=0) / width
    b_centred = tl.where(m_column, b_x - mean, 0.0)
    variance = tl.sum(b_centred * b_centred, axis=0) / width
    b_y = b_centred * tl.rsqrt(variance + EPSILON) * b_weight + b_bias
    tl.store(p_y + i_row * width + o_column, b_y.to(p_y.dtype.element_ty), mask=m_column)
