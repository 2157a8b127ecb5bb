"""GELU, and the function of registers that other kernels fuse."""

import triton
import triton.language as tl


@triton.jit
def exact_gelu(b_x):
    """gelu(x) = x * (1 + erf(x / sqrt 2)) / 2, of fp32 values in registers."""
    return 0.5 * b_x * (1.0 + tl.erf(b_x * 0.7071067811865476))


@triton.jit
def gelu_fwd_kernel(p_x, size, p_y, BLOCK: tl.constexpr):
    """y = gelu(x). One program computes BLOCK elements."""
    i_block = tl.program_id(0).to(tl.int64)
    o_x = i_block * BLOCK + tl.arange(0, BLOCK)
    m_x = o_x < size
    b_x = tl.load(p_x + o_x, mask=m_x, other=0.0).to(tl.float32)
    b_y = exact_gelu(b_x)
    tl.store(p_y + o_x, b_y.to(p_y.dtype.element_ty), mask=m_x)
