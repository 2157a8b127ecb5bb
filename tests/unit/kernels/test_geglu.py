"""GEGLU: the kernel in the interpreter against the reference, the reference against diffusers."""

import pytest
import torch
from kernel_tolerances import DTYPES, assert_one_rounding, dtype_id, random

from sangsang.kernels.geglu import geglu
from sangsang.kernels.geglu.reference import geglu_reference

SHAPES = {
    "SD 1.5, 1280 channels, 4 of its 64 tokens": (1, 4, 10240),
    "SD 1.5, 320 channels, 8 of its 4096 tokens": (1, 8, 2560),
    "pocket's width": (2, 16, 1024),
    "one element": (1, 2),
    "a width that no vector divides, and a tail in the second block": (3, 2 * 1031),
    "one row more than a power of two": (17, 30),
    "four dimensions": (2, 3, 5, 8),
    "no rows": (0, 64),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_kernel_is_the_reference(interpreted, shape, dtype):
    x = random(*shape, dtype=dtype, scale=3.0)
    assert_one_rounding(geglu(x), geglu_reference(x))


def test_strides_do_not_matter(interpreted):
    x = random(6, 64, 5).transpose(1, 2)
    assert_one_rounding(geglu(x), geglu_reference(x))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_what_is_not_finite_stays_so(interpreted):
    infinity, nan = float("inf"), float("nan")
    x = torch.tensor([[1.0, nan, infinity, -1.0, 2.0, 60000.0, infinity, -infinity, nan, 100.0]])
    assert_one_rounding(geglu(x), geglu_reference(x))


def test_the_reference_is_the_module_of_diffusers():
    from diffusers.models.activations import GEGLU

    module = GEGLU(24, 40)
    x = random(2, 7, 24)
    with torch.no_grad():
        assert_one_rounding(geglu_reference(module.proj(x)), module(x))


@pytest.mark.parametrize(
    "x", [torch.zeros(3, 5), torch.tensor(1.0), torch.zeros(2, 4, dtype=torch.int32)]
)
def test_a_wrong_tensor_is_named(x):
    with pytest.raises(ValueError, match=r"geglu takes floats \[\.\.\., 2 \* width\], not torch"):
        geglu(x)
