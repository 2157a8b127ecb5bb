"""The adapter bank: the kernel in the interpreter against the reference and against peft's way."""

import pytest
import torch
from kernel_tolerances import BF16_DOT, DTYPES, TWO_PRODUCTS, dtype_id, random

from sangsang.kernels.lora_bank import lora_bank
from sangsang.kernels.lora_bank.reference import lora_bank_reference

# rows, tokens, in_width, out_width, rank
SHAPES = {
    "SD 1.5, 320 channels, rank 4, 40 of 4096 tokens": (2, 40, 320, 320, 4),
    "SD 1.5, a key from 77 tokens of CLIP, rank 32": (2, 77, 768, 320, 32),
    "an output of more than one span": (1, 16, 64, 600, 8),
    "three adapters of 8": (3, 7, 48, 80, 24),
    "nothing is a multiple of a block": (3, 23, 37, 41, 5),
    "rank 1, one token": (1, 1, 16, 16, 1),
    "the highest rank": (1, 3, 32, 32, 128),
    "left to the reference": (1, 3, 32, 32, 129),
    "no rows": (0, 4, 16, 16, 4),
}


def operands(rows, tokens, in_width, out_width, rank, dtype=torch.float32):
    return (
        random(rows, tokens, in_width, dtype=dtype),
        random(rows, tokens, out_width, dtype=dtype, seed=1),
        random(in_width, rank, dtype=dtype, seed=2, scale=in_width**-0.5),
        random(rank, out_width, dtype=dtype, seed=3, scale=max(rank, 1) ** -0.5),
        random(rows, rank, seed=4),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_kernel_is_the_reference(interpreted, shape, dtype):
    if dtype == torch.bfloat16:
        pytest.skip(BF16_DOT)
    batch = operands(*shape, dtype)
    torch.testing.assert_close(
        lora_bank(*batch), lora_bank_reference(*batch), **TWO_PRODUCTS[dtype]
    )


def test_rows_without_an_adapter_are_as_they_were(interpreted):
    x, y, down, up, scale = operands(3, 70, 32, 32, 8)
    scale[1] = 0.0
    out = lora_bank(x, y, down, up, scale)
    assert torch.equal(out[1], y[1])
    assert not torch.equal(out[0], y[0])


def test_a_block_without_adapters_does_not_read_the_input(interpreted):
    x, y, down, up, scale = operands(2, 64, 32, 32, 8)
    x[1], scale[1] = float("nan"), 0.0
    assert torch.equal(lora_bank(x, y, down, up, scale)[1], y[1])


def test_each_row_gets_its_own_adapter_as_if_alone():
    ranks, rows = (4, 8), 2
    x, y, down, up, _ = operands(rows, 5, 24, 40, sum(ranks))
    scale = torch.zeros(rows, sum(ranks))
    scale[0, :4], scale[1, 4:] = 0.7, 1.3
    out = lora_bank_reference(x, y, down, up, scale)
    for row, (part, weight) in enumerate(((slice(0, 4), 0.7), (slice(4, 12), 1.3))):
        alone = y[row] + weight * (x[row] @ down[:, part]) @ up[part]
        torch.testing.assert_close(out[row], alone, **TWO_PRODUCTS[torch.float32])


@pytest.mark.parametrize("wrong", range(5))
def test_what_does_not_fit_is_named(wrong):
    batch = list(operands(2, 3, 16, 24, 4))
    batch[wrong] = batch[wrong][..., :1]
    with pytest.raises(ValueError, match="lora_bank takes"):
        lora_bank(*batch)
