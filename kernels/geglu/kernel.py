"""GEGLU in one trip to memory."""

import triton
import triton.language as tl

from ..gelu.kernel import exact_gelu


@triton.jit
def geglu_fwd_kernel(p_x, width, p_y, BLOCK: tl.constexpr):
    """y = value * gelu(gate), where a row of x is [value, gate].

    One program computes BLOCK columns of one row of y, `[rows, width]`.
    """
    i_row = tl.program_id(0).to(tl.int64)
    i_block = tl.program_id(1)
    o_column = i_block * BLOCK + tl.arange(0, BLOCK)
    m_column = o_column < width
    p_value = p_x + i_row * 2 * width + o_column
    b_value = tl.load(p_value, mask=m_column, other=0.0).to(tl.float32)
    b_gate = tl.load(p_value + width, mask=m_column, other=0.0).to(tl.float32)
    b_y = b_value * exact_gelu(b_gate)
    tl.store(p_y + i_row * width + o_column, b_y.to(p_y.dtype.element_ty), mask=m_column)
