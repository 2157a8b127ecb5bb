"""How near a kernel has to come to its reference, and random tensors to see it with."""

import torch

# Both compute in fp32 and round once, so in half precision they differ by one unit in the last
# place where the fp32 values lie on two sides of a boundary; that is 2^-10 and 2^-7 of the value.
# The fp32 values themselves differ by the order of sums and by the library's erf and exp: a few
# units of 2^-23, of the largest term where terms cancel. Inputs here are of the order of 10.
FP32_NOISE = 5e-6
ONE_ROUNDING = {torch.float32: FP32_NOISE, torch.float16: 2**-10, torch.bfloat16: 2**-7}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def dtype_id(value):
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else None


def assert_one_rounding(actual, expected):
    """Both have one shape and dtype and differ by one rounding; NaN equals NaN."""
    relative = ONE_ROUNDING[expected.dtype]
    torch.testing.assert_close(actual, expected, equal_nan=True, rtol=relative, atol=FP32_NOISE)


def random(*shape, dtype=torch.float32, seed=0, scale=1.0):
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (drawn * scale).to(dtype)


# After a matrix product whose factor was itself rounded: that factor may differ by one unit, and in
# a sum of unit-variance terms the other factor carries it to the result.
TWO_PRODUCTS = {
    torch.float32: {"rtol": FP32_NOISE, "atol": 2e-5},
    torch.float16: {"rtol": 2**-10, "atol": 2**-9},
    torch.bfloat16: {"rtol": 2**-7, "atol": 2**-6},
}
BF16_DOT = (
    "the interpreter's tl.dot multiplies the bits of bf16 as integers; it is compiled instead"
)
