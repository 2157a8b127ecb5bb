"""SiLU, also called swish, and the function of registers that other kernels fuse."""

import triton
import triton.language as tl


@triton.jit
def swish(b_x):
    """silu(x) = x * sigmoid(x), of fp32 values in registers."""
    return b_x * tl.sigmoid(b_x)


@triton.jit
def silu_fwd_kernel(p_x, size, p_y, BLOCK: tl.constexpr):
    """y = x * sigmoid(x). One program computes BLOCK elements."""
    i_block = tl.program_id(0).to(tl.int64)
    o_x = i_block * BLOCK + tl.arange(0, BLOCK)
    m_x = o_x < size
    b_x = tl.load(p_x + o_x, mask=m_x, other=0.0).to(tl.float32)
    tl.store(p_y + o_x, swish(b_x).to(p_y.dtype.element_ty), mask=m_x)
