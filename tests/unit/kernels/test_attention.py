"""Attention: the kernel in the interpreter against the reference, that against torch."""

import pytest
import torch
from kernel_tolerances import BF16_DOT, DTYPES, TWO_PRODUCTS, dtype_id, random
from torch.nn.functional import scaled_dot_product_attention

from sangsang.kernels.attention import attention
from sangsang.kernels.attention.op import depth_blocks, stride_unit
from sangsang.kernels.attention.reference import attention_reference

# batch, heads, queries, keys, depth
SHAPES = {
    "SD 1.5, self, depth 40, 100 of 4096 tokens": (1, 2, 100, 100, 40),
    "SD 1.5, cross, depth 80, 77 tokens of CLIP": (1, 2, 64, 77, 80),
    "SD 1.5, self at 8x8, depth 160": (2, 1, 64, 64, 160),
    "SDXL, depth 64": (1, 1, 70, 130, 64),
    "depth 8, below the least block": (1, 2, 17, 9, 8),
    "depth 96": (1, 1, 10, 33, 96),
    "an odd depth": (1, 1, 5, 7, 13),
    "one query, one key": (1, 1, 1, 1, 16),
    "one key more than a tile": (1, 1, 3, 65, 32),
    "no queries": (1, 2, 0, 4, 16),
}


def operands(batch, heads, queries, keys, depth, dtype=torch.float32):
    return (
        random(batch, heads, queries, depth, dtype=dtype),
        random(batch, heads, keys, depth, dtype=dtype, seed=1),
        random(batch, heads, keys, depth, dtype=dtype, seed=2),
    )


def assert_near(actual, expected):
    torch.testing.assert_close(actual, expected, **TWO_PRODUCTS[expected.dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_kernel_is_the_reference(interpreted, shape, dtype):
    if dtype == torch.bfloat16:
        pytest.skip(BF16_DOT)
    batch = operands(*shape, dtype)
    assert_near(attention(*batch), attention_reference(*batch, shape[-1] ** -0.5))


def test_heads_are_read_where_a_projection_left_them(interpreted):
    """`[batch, tokens, heads * depth]`, seen as heads, as diffusers passes it."""
    joined = [random(2, 20, 3 * 24, seed=seed) for seed in range(3)]
    heads = [x.view(2, 20, 3, 24).transpose(1, 2) for x in joined]
    out = attention(*heads)
    assert_near(out, attention_reference(*heads, 24**-0.5))
    assert out.transpose(1, 2).is_contiguous()


def test_values_that_are_not_neighbours_are_copied(interpreted):
    batch = [random(1, 2, 16, 9, seed=seed).transpose(2, 3) for seed in range(3)]
    assert_near(attention(*batch), attention_reference(*batch, 16**-0.5))


def test_scores_far_beyond_the_range_of_exp(interpreted):
    query, key, value = operands(1, 1, 8, 80, 32)
    batch = (query * 100, key * 100, value)
    assert_near(attention(*batch), attention_reference(*batch, 32**-0.5))


def test_a_scale_of_ones_own(interpreted):
    batch = operands(1, 1, 6, 11, 16)
    assert_near(attention(*batch, scale=1.0), attention_reference(*batch, 1.0))


def test_the_reference_is_that_of_torch():
    batch = operands(2, 3, 50, 77, 40)
    assert_near(attention_reference(*batch, 40**-0.5), scaled_dot_product_attention(*batch))


def test_a_depth_is_held_by_as_little_as_two_blocks_allow():
    held = {depth: depth_blocks(depth) for depth in (8, 16, 24, 40, 64, 72, 80, 96, 120, 160)}
    assert held == {
        8: (16, 0),
        16: (16, 0),
        24: (32, 0),
        40: (32, 16),
        64: (64, 0),
        72: (64, 16),
        80: (64, 16),
        96: (64, 32),
        120: (128, 0),
        160: (128, 32),
    }


def test_the_unit_divides_every_stride():
    found = [stride_unit(*strides) for strides in ((320, 40), (640, 64, 0), (24, 4), (26, 13))]
    assert found == [8, 16, 4, 1]


@pytest.mark.parametrize("keys", [(1, 2, 0, 16), (1, 3, 4, 16), (1, 2, 4, 8), (2, 4, 16)])
def test_what_does_not_fit_is_named(keys):
    with pytest.raises(ValueError, match=r"attention takes \[batch, heads, queries, depth\]"):
        attention(torch.zeros(1, 2, 4, 16), torch.zeros(keys), torch.zeros(keys))
