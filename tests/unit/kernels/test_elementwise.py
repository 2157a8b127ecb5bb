"""SiLU, GELU and casts: the kernels in the interpreter against torch."""

import pytest
import torch
from kernel_tolerances import DTYPES, assert_one_rounding, dtype_id, random
from torch.nn import functional

from sangsang.kernels.cast import cast
from sangsang.kernels.cast.reference import cast_reference
from sangsang.kernels.gelu import gelu
from sangsang.kernels.gelu.reference import gelu_reference
from sangsang.kernels.silu import silu
from sangsang.kernels.silu.reference import silu_reference

SHAPES = {
    "SD 1.5, the time embedding": (2, 1280),
    "SD 1.5, 1280 channels at 8x8": (1, 1280, 8, 8),
    "one element": (1,),
    "no dimension": (),
    "a tail of one in the second block": (1025,),
    "odd sizes": (3, 5, 7, 11),
    "nothing": (0, 4),
}
ACTIVATIONS = {"silu": (silu, silu_reference), "gelu": (gelu, gelu_reference)}

every_activation = pytest.mark.parametrize(
    ("activation", "reference"), ACTIVATIONS.values(), ids=ACTIVATIONS
)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)


@every_dtype
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@every_activation
def test_the_kernel_is_the_reference(interpreted, activation, reference, shape, dtype):
    x = random(*shape, dtype=dtype, scale=4.0)
    assert_one_rounding(activation(x), reference(x))


@every_activation
def test_channels_last_stays_so(interpreted, activation, reference):
    x = random(2, 6, 5, 3).to(memory_format=torch.channels_last)
    y = activation(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_one_rounding(y, reference(x))


@every_activation
def test_memory_with_gaps_or_shared_is_copied(interpreted, activation, reference):
    for x in (random(8, 6)[:, ::2], random(1, 5).expand(4, 5), random(40)[3:17]):
        assert_one_rounding(activation(x), reference(x))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@every_activation
def test_the_ends_of_the_range(interpreted, activation, reference):
    x = torch.tensor([float("inf"), float("nan"), 3e38, -100.0, -0.0, 1e-40, 65504.0])
    assert_one_rounding(activation(x), reference(x))


def test_the_references_are_functions_of_torch():
    x = random(1000, scale=4.0)
    torch.testing.assert_close(silu_reference(x), functional.silu(x), rtol=2e-7, atol=1e-7)
    torch.testing.assert_close(gelu_reference(x), functional.gelu(x), rtol=2e-7, atol=1e-6)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("target", DTYPES, ids=dtype_id)
@every_dtype
def test_a_cast_rounds_as_torch_does(interpreted, dtype, target):
    if torch.bfloat16 in (dtype, target):
        pytest.skip("the interpreter cuts bf16 off and has no subnormals of it; see the next test")
    # Ties, the least and the greatest of each type, and what overflows the next smaller one.
    hostile = [0.0, -0.0, 1 + 2**-11, 1 + 3 * 2**-11, 2**-24, 2**-25, 65504.0, 65519.0, 65520.0]
    hostile += [1e-40, 3e38, float("inf"), -float("inf"), float("nan")]
    x = torch.cat([torch.tensor(hostile), random(1024, seed=1)]).to(dtype)
    torch.testing.assert_close(
        cast(x, target), cast_reference(x, target), rtol=0, atol=0, equal_nan=True
    )


@every_dtype
def test_a_cast_to_bf16_is_within_one_unit(interpreted, dtype):
    x = torch.cat([torch.tensor([0.0, 1.0, float("inf")]), random(1024, seed=1)]).to(dtype)
    assert_one_rounding(cast(x, torch.bfloat16), cast_reference(x, torch.bfloat16))
    wide = cast(x.to(torch.bfloat16), torch.float32)
    assert torch.equal(wide, x.to(torch.bfloat16).float()), "fp32 holds every bf16"


def test_a_cast_to_its_own_type_is_a_copy(interpreted):
    x = random(2, 4, 3, 3).to(memory_format=torch.channels_last)
    y = cast(x, torch.float32)
    assert y.data_ptr() != x.data_ptr()
    assert y.stride() == x.stride()
    assert torch.equal(x, y)


def test_memory_that_nothing_has_written_is_nan_here(interpreted):
    assert torch.empty(3).isnan().all()
    assert torch.empty_like(torch.ones(2, 2, dtype=torch.float16)).isnan().all()


@pytest.mark.parametrize("operation", [silu, gelu, lambda x: cast(x, torch.float16)])
def test_integers_are_refused(operation):
    with pytest.raises(ValueError, match="int64"):
        operation(torch.arange(3))
