"""LayerNorm and softmax, which keep a row in registers: the kernels against torch."""

import pytest
import torch
from kernel_tolerances import DTYPES, assert_one_rounding, dtype_id, random
from torch.nn import functional

from sangsang.kernels.layer_norm import layer_norm
from sangsang.kernels.layer_norm.reference import layer_norm_reference
from sangsang.kernels.softmax import softmax
from sangsang.kernels.softmax.reference import softmax_reference

SHAPES = {
    "SD 1.5, 320 channels, 64 of its 4096 tokens": (1, 64, 320),
    "SD 1.5, 1280 channels at 8x8": (1, 64, 1280),
    "CLIP's 77 tokens of 768": (1, 77, 768),
    "an attention row over 77 tokens": (1, 2, 16, 77),
    "one column": (3, 1),
    "one more than a power of two": (5, 129),
    "no rows": (0, 7),
    "the widest that registers hold": (1, 16384),
    "left to the reference": (1, 16385),
}

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@every_dtype
@every_shape
def test_layer_norm_is_its_reference(interpreted, shape, dtype):
    x = (random(*shape) * 2 + 1).to(dtype)
    weight, bias = random(shape[-1], dtype=dtype, seed=1), random(shape[-1], dtype=dtype, seed=2)
    assert_one_rounding(layer_norm(x, weight, bias), layer_norm_reference(x, weight, bias, 1e-5))


@every_dtype
@every_shape
def test_softmax_is_its_reference(interpreted, shape, dtype):
    x = random(*shape, dtype=dtype, scale=5.0)
    assert_one_rounding(softmax(x), softmax_reference(x))


def test_a_mean_far_from_zero_does_not_eat_the_variance(interpreted):
    x = random(4, 96) + 4096.0
    ones, zeros = torch.ones(96), torch.zeros(96)
    exact = layer_norm_reference(x.double(), ones.double(), zeros.double(), 1e-5)
    y = layer_norm(x, ones, zeros)
    # The inputs themselves have a spacing of 4096 * 2^-23 = 5e-4.
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=2e-3)


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")
def test_softmax_of_the_ends_of_the_range(interpreted):
    infinity = float("inf")
    x = torch.tensor([[3e38, -3e38, 0.0], [-infinity, 1.0, 2.0], [-infinity] * 3, [1e4, 1e4, 0.0]])
    assert_one_rounding(softmax(x), softmax_reference(x))
    assert softmax(x)[2].isnan().all()


def test_strides_do_not_matter(interpreted):
    x = random(9, 40, 3).transpose(1, 2)
    weight, bias = random(80, seed=1)[::2], random(80, seed=2)[::2]
    assert_one_rounding(softmax(x), softmax_reference(x))
    assert_one_rounding(layer_norm(x, weight, bias), layer_norm_reference(x, weight, bias, 1e-5))


def test_the_references_are_functions_of_torch():
    x, weight, bias = random(6, 320, scale=3.0), random(320, seed=1), random(320, seed=2)
    expected = functional.layer_norm(x, (320,), weight, bias, 1e-5)
    assert_one_rounding(layer_norm_reference(x, weight, bias, 1e-5), expected)
    assert_one_rounding(softmax_reference(x), torch.softmax(x, dim=-1))


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"\[width\] and \[width\], not \(\(2, 3\), \(4,\)"):
        layer_norm(torch.zeros(2, 3), torch.ones(4), torch.ones(4))
    with pytest.raises(ValueError, match=r"softmax takes floats \[\.\.\., width\], not"):
        softmax(torch.zeros(2, 0))
