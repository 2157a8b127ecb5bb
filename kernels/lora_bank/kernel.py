"""Both low-rank products of every row's adapters; what lies between them stays on the chip."""

import triton
import triton.language as tl


@triton.jit
def lora_bank_fwd_kernel(
    p_x,
    p_y,
    p_down,
    p_up,
    p_scale,
    row_tokens,
    tokens,
    in_width,
    out_width,
    rank,
    p_out,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    SPAN: tl.constexpr,
):
    """out = y + ((x @ down) * scale[row]) @ up.

    One program computes SPAN columns of BLOCK_TOKENS tokens. `h`, `[BLOCK_TOKENS, BLOCK_RANK]`, is
    computed once in it and kept; where all scales are zero, it is zero and x is not read.
    """
    i_block = tl.program_id(0).to(tl.int64)
    o_token = i_block * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    o_rank = tl.arange(0, BLOCK_RANK)
    m_token = (o_token < tokens)[:, None]
    m_rank = (o_rank < rank)[None, :]
    p_row_scale = p_scale + (o_token // row_tokens)[:, None] * rank + o_rank[None, :]
    b_scale = tl.load(p_row_scale, mask=m_token & m_rank, other=0.0)

    b_h = tl.zeros([BLOCK_TOKENS, BLOCK_RANK], tl.float32)
    used = tl.sum(tl.sum((b_scale != 0.0).to(tl.int32), axis=1), axis=0)
    if used > 0:  # pyright: ignore[reportOperatorIssue]
        for start in range(0, in_width, BLOCK_IN):
            o_in = start + tl.arange(0, BLOCK_IN)
            m_in = o_in < in_width
            p_tile = p_x + o_token[:, None] * in_width + o_in[None, :]
            b_x = tl.load(p_tile, mask=m_token & m_in[None, :], other=0.0)
            p_tile = p_down + o_in[:, None] * rank + o_rank[None, :]
            b_down = tl.load(p_tile, mask=m_in[:, None] & m_rank, other=0.0)
            b_h = tl.dot(b_x, b_down, b_h, input_precision="ieee")
    b_low = (b_h * b_scale).to(p_x.dtype.element_ty)

    first = tl.program_id(1) * SPAN
    for start in range(0, SPAN, BLOCK_OUT):
        o_out = first + start + tl.arange(0, BLOCK_OUT)
        m_out = (o_out < out_width)[None, :]
        p_tile = p_up + o_rank[:, None] * out_width + o_out[None, :]
        b_up = tl.load(p_tile, mask=(o_rank < rank)[:, None] & m_out, other=0.0)
        o_tile = o_token[:, None] * out_width + o_out[None, :]
        b_y = tl.load(p_y + o_tile, mask=m_token & m_out, other=0.0).to(tl.float32)
        b_y = tl.dot(b_low, b_up, b_y, input_precision="ieee")
        tl.store(p_out + o_tile, b_y.to(p_out.dtype.element_ty), mask=m_token & m_out)
