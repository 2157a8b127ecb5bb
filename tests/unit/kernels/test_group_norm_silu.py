"""GroupNorm and SiLU: every kernel against the reference, the reference against torch."""

import pytest
import torch
from kernel_tolerances import DTYPES, FP32_NOISE, assert_one_rounding, dtype_id, random
from torch.nn import functional

from sangsang.kernels.group_norm_silu import group_norm_silu, op
from sangsang.kernels.group_norm_silu.reference import group_norm_silu_reference

# [batch, channels, height, width], groups
SHAPES = {
    "SD 1.5, 1280 channels at 8x8, 32 groups of 40": ((1, 1280, 8, 8), 32),
    "SD 1.5, 320 channels, 32 groups of 10, an eighth of the side": ((1, 320, 8, 8), 32),
    "SD 1.5 up block, 2560 channels, groups of 80": ((1, 2560, 2, 2), 32),
    "an odd picture and an odd group": ((2, 21, 5, 7), 3),
    "one group: LayerNorm over everything": ((2, 6, 3, 3), 1),
    "a group for each channel: InstanceNorm": ((1, 5, 4, 4), 5),
    "one pixel": ((2, 8, 1, 1), 2),
    "more pixels than a channels-last block": ((1, 8, 13, 11), 4),
    "no picture": ((0, 8, 4, 4), 4),
}
# Groups of more values than registers hold.
LARGE = {
    "10 channels of 48x48": ((1, 20, 48, 48), 2),
    "3 channels of 83x77, which no vector divides": ((1, 6, 83, 77), 2),
}
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}

# In lanes beyond the group's end, which are not stored.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
every_format = pytest.mark.parametrize("memory", FORMATS.values(), ids=FORMATS)


def operands(shape, dtype=torch.float32, memory=torch.contiguous_format, mean=0.5):
    x = (random(*shape) + mean).to(dtype).contiguous(memory_format=memory)
    return x, random(shape[1], dtype=dtype, seed=1), random(shape[1], dtype=dtype, seed=2)


@every_format
@every_dtype
@pytest.mark.parametrize(("shape", "groups"), SHAPES.values(), ids=SHAPES)
def test_the_kernel_is_the_reference(interpreted, shape, groups, dtype, memory):
    x, weight, bias = operands(shape, dtype, memory)
    y = group_norm_silu(x, weight, bias, group_count=groups)
    assert y.stride() == x.stride()
    assert_one_rounding(y, group_norm_silu_reference(x, weight, bias, groups, 1e-5))


@every_format
@every_dtype
@pytest.mark.parametrize(("shape", "groups"), LARGE.values(), ids=LARGE)
def test_a_group_beyond_the_registers_is_streamed(interpreted, shape, groups, dtype, memory):
    assert op.resident_blocks(shape[1] // groups, shape[2] * shape[3]) is None
    x, weight, bias = operands(shape, dtype, memory)
    y = group_norm_silu(x, weight, bias, group_count=groups)
    assert_one_rounding(y, group_norm_silu_reference(x, weight, bias, groups, 1e-5))


@every_format
@pytest.mark.parametrize("shape", [(1, 4, 16, 16), (1, 4, 96, 96)], ids=["resident", "streamed"])
def test_a_mean_far_from_zero_does_not_eat_the_variance(interpreted, shape, memory):
    """E[x^2] - E[x]^2 in fp32 would be off by as much as the variance itself: here it is 1."""
    x, weight, bias = operands(shape, memory=memory, mean=4096.0)
    exact = group_norm_silu_reference(x.double(), weight.double(), bias.double(), 2, 1e-5)
    y = group_norm_silu(x, weight, bias, group_count=2)
    # The inputs themselves have a spacing of 4096 * 2^-23 = 5e-4.
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=2e-3)


@every_format
def test_a_constant_group_is_its_bias(interpreted, memory):
    x = torch.full((1, 4, 6, 6), 3.0).contiguous(memory_format=memory)
    weight, bias = random(4, seed=1), random(4, seed=2)
    y = group_norm_silu(x, weight, bias, group_count=2)
    expected = functional.silu(bias).view(1, 4, 1, 1).expand(1, 4, 6, 6)
    torch.testing.assert_close(y, expected, rtol=FP32_NOISE, atol=FP32_NOISE)


def test_weights_may_be_fp32_when_activations_are_not(interpreted):
    x, _, _ = operands((1, 8, 4, 4), torch.float16)
    weight, bias = random(8, seed=1), random(8, seed=2)
    y = group_norm_silu(x, weight, bias, group_count=2)
    assert_one_rounding(y, group_norm_silu_reference(x, weight, bias, 2, 1e-5))


@every_format
def test_the_reference_is_that_of_torch(memory):
    x, weight, bias = operands((2, 64, 9, 7), memory=memory)
    expected = functional.silu(functional.group_norm(x, 32, weight, bias, 1e-6))
    torch.testing.assert_close(
        group_norm_silu_reference(x, weight, bias, 32, 1e-6), expected, rtol=1e-5, atol=2e-6
    )


@pytest.mark.parametrize(
    ("shape", "weight", "groups"),
    [((1, 6, 2, 2), 6, 4), ((1, 6, 2, 2), 5, 3), ((6,), 6, 1), ((1, 6, 2, 2), 6, 0)],
)
def test_what_does_not_fit_is_named(shape, weight, groups):
    with pytest.raises(ValueError, match="groups that divide the channels, not"):
        group_norm_silu(
            torch.zeros(shape), torch.ones(weight), torch.ones(weight), group_count=groups
        )
