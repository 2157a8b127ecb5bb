"""The noise behind a seed is torch's, so that diffusers' pictures come back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sangsang.services.runtime.noise import MAX_SEED, TorchGenerator

# torch's vectorised log and cos against numpy's.
TOLERANCE = 5e-7

SHAPES = [(16,), (17,), (31,), (1, 4, 16, 16), (1, 4, 64, 64), (3, 5, 7, 3), (1, 4, 9, 11)]
SEEDS = [0, 1, 7, 123456789, 2**32 - 1, 2**32, 2**33 + 5, 2**63 - 1]


def torch_generator(seed):
    return torch.Generator("cpu").manual_seed(seed)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_equals_torch(shape, seed):
    expected = torch.randn(shape, generator=torch_generator(seed)).numpy()
    drawn = TorchGenerator(seed).randn(shape)
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=TOLERANCE)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, MAX_SEED),
    shapes=st.lists(
        st.lists(st.integers(1, 9), min_size=1, max_size=4).filter(lambda s: np.prod(s) >= 16),
        min_size=1,
        max_size=5,
    ),
)
def test_draws_continue_as_in_torch(seed, shapes):
    ours, theirs = TorchGenerator(seed), torch_generator(seed)
    for shape in shapes:
        expected = torch.randn(shape, generator=theirs).numpy()
        np.testing.assert_allclose(ours.randn(shape), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 5, 7)])
@pytest.mark.parametrize("draw_count", [0, 1, 3])
def test_skip_equals_drawing(shape, draw_count):
    skipped, drawn = TorchGenerator(5), TorchGenerator(5)
    skipped.skip(draw_count, shape)
    for _ in range(draw_count):
        drawn.randn(shape)
    np.testing.assert_array_equal(skipped.randn(shape), drawn.randn(shape))


@pytest.mark.parametrize("shape", [(15,), (1,), (3, 5)])
def test_small_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="fewer than 16"):
        TorchGenerator(0).randn(shape)
    with pytest.raises(ValueError, match="fewer than 16"):
        TorchGenerator(0).skip(1, shape)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        TorchGenerator(seed)
