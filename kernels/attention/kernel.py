"""FlashAttention, forward: the matrix of queries and keys exists one tile at a time."""

# Branches on compile-time arguments define what later ones use.
# pyright: reportPossiblyUnboundVariable=false

import triton
import triton.language as tl


@triton.jit
def attention_fwd_kernel(
    p_query,
    p_key,
    p_value,
    heads,
    queries,
    keys,
    query_batch_stride,
    query_head_stride,
    query_stride,
    key_batch_stride,
    key_head_stride,
    key_stride,
    value_batch_stride,
    value_head_stride,
    value_stride,
    p_out,
    UNIT: tl.constexpr,
    SCALE_LOG2: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    BLOCK_REST: tl.constexpr,
):
    """out = softmax(query @ key^T * scale) @ value, out `[batch, queries, heads, depth]`.

    One program computes BLOCK_QUERIES queries of one head, over all keys in turn, with the running
    greatest and sum of Milakov and Gimelshein (2018) and the tiling of Dao et al. (2022). Powers of
    e are those of 2, so SCALE_LOG2 is scale * log2(e). A depth that is no power of two is the
    nearest below and a rest: 80 = 64 + 16, not 128. BLOCK_REST is 0 if there is none. Strides are
    in units of UNIT elements, which is how the compiler knows of a number that divides them all.
    """
    i_batch = (tl.program_id(1) // heads).to(tl.int64)
    i_head = (tl.program_id(1) % heads).to(tl.int64)
    o_query = tl.program_id(0).to(tl.int64) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    o_key = tl.arange(0, BLOCK_KEYS)
    o_depth = tl.arange(0, BLOCK_DEPTH)
    m_query = (o_query < queries)[:, None]
    m_depth = o_depth < DEPTH
    p_query += (i_batch * query_batch_stride + i_head * query_head_stride) * UNIT
    p_key += (i_batch * key_batch_stride + i_head * key_head_stride) * UNIT
    p_value += (i_batch * value_batch_stride + i_head * value_head_stride) * UNIT

    p_rows = p_query + o_query[:, None] * (query_stride * UNIT)
    b_query = tl.load(p_rows + o_depth[None, :], mask=m_query & m_depth[None, :], other=0.0)
    b_out = tl.zeros([BLOCK_QUERIES, BLOCK_DEPTH], tl.float32)
    if BLOCK_REST > 0:
        o_rest = BLOCK_DEPTH + tl.arange(0, BLOCK_REST)
        m_rest = o_rest < DEPTH
        b_query_rest = tl.load(p_rows + o_rest[None, :], mask=m_query & m_rest[None, :], other=0.0)
        b_out_rest = tl.zeros([BLOCK_QUERIES, BLOCK_REST], tl.float32)
    b_greatest = tl.full([BLOCK_QUERIES], -float("inf"), tl.float32)
    b_sum = tl.zeros([BLOCK_QUERIES], tl.float32)

    for start in range(0, keys, BLOCK_KEYS):
        m_key = start + o_key < keys
        p_columns = p_key + (start + o_key).to(tl.int64)[None, :] * (key_stride * UNIT)
        m_tile = m_depth[:, None] & m_key[None, :]
        b_key = tl.load(p_columns + o_depth[:, None], mask=m_tile, other=0.0)
        b_scores = tl.dot(b_query, b_key, input_precision="ieee")
        if BLOCK_REST > 0:
            m_tile = m_rest[:, None] & m_key[None, :]
            b_key_rest = tl.load(p_columns + o_rest[:, None], mask=m_tile, other=0.0)
            b_scores = tl.dot(b_query_rest, b_key_rest, b_scores, input_precision="ieee")
        b_scores = tl.where(m_key[None, :], b_scores * SCALE_LOG2, -float("inf"))

        b_next = tl.maximum(b_greatest, tl.max(b_scores, axis=1))
        b_weights = tl.exp2(b_scores - b_next[:, None])
        b_decay = tl.exp2(b_greatest - b_next)
        b_sum = b_sum * b_decay + tl.sum(b_weights, axis=1)
        b_greatest = b_next

        p_tokens = p_value + (start + o_key).to(tl.int64)[:, None] * (value_stride * UNIT)
        m_tile = m_key[:, None] & m_depth[None, :]
        b_value = tl.load(p_tokens + o_depth[None, :], mask=m_tile, other=0.0)
        b_weights = b_weights.to(b_value.dtype)
        b_out = tl.dot(b_weights, b_value, b_out * b_decay[:, None], input_precision="ieee")
        if BLOCK_REST > 0:
            m_tile = m_key[:, None] & m_rest[None, :]
            b_value_rest = tl.load(p_tokens + o_rest[None, :], mask=m_tile, other=0.0)
            b_out_rest *= b_decay[:, None]
            b_out_rest = tl.dot(b_weights, b_value_rest, b_out_rest, input_precision="ieee")

    o_row = ((i_batch * queries + o_query) * heads + i_head) * DEPTH
    p_rows = p_out + o_row[:, None]
    b_out = (b_out / b_sum[:, None]).to(p_out.dtype.element_ty)
    tl.store(p_rows + o_depth[None, :], b_out, mask=m_query & m_depth[None, :])
    if BLOCK_REST > 0:
        b_out_rest = (b_out_rest / b_sum[:, None]).to(p_out.dtype.element_ty)
        tl.store(p_rows + o_rest[None, :], b_out_rest, mask=m_query & m_rest[None, :])
