"""Inputs are checked before a backend sees them."""

import numpy as np
import pytest

from sangsang.services.runtime.engines.engine import TensorSpec
from sangsang.services.runtime.engines.signatures import Signature
from sangsang.services.runtime.engines.validation import check_inputs

F32 = np.dtype(np.float32)
UNET = Signature(
    inputs=(
        TensorSpec("sample", F32, (None, 4, None, None)),
        TensorSpec("timestep", F32, (None,)),
    ),
    outputs=(TensorSpec("out_sample", F32, (None, 4, None, None)),),
    side_multiple=2,
)


def inputs(**changes):
    good = {"sample": np.zeros((2, 4, 4, 6), np.float32), "timestep": np.zeros(2, np.float32)}
    return {**good, **changes}


def test_good_inputs_come_back_in_order_and_contiguous():
    turned = np.zeros((6, 4, 4, 2), np.float32).T
    checked = check_inputs(UNET, dict(reversed(inputs(sample=turned).items())))
    assert list(checked) == ["sample", "timestep"]
    assert checked["sample"].flags.c_contiguous


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": np.zeros(2, np.float32)}, "unknown: extra"),
        ({"timestep": np.zeros(2, np.int64)}, "timestep must be float32, not int64"),
        ({"timestep": np.zeros((2, 1), np.float32)}, r"timestep must have shape \[any\]"),
        ({"sample": np.zeros((2, 3, 4, 6), np.float32)}, r"sample must have shape \[any, 4"),
        ({"sample": np.zeros((0, 4, 4, 6), np.float32)}, "sample must have shape"),
        ({"sample": np.zeros((2, 4, 5, 6), np.float32)}, "multiples of 2, not 5x6"),
        ({"timestep": np.zeros(3, np.float32)}, "different batch sizes"),
        ({"timestep": [0.0, 1.0]}, "timestep must be a numpy array"),
    ],
)
def test_a_bad_input_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        check_inputs(UNET, inputs(**changes))


def test_a_missing_input_is_named():
    with pytest.raises(ValueError, match="missing: timestep"):
        check_inputs(UNET, {"sample": np.zeros((2, 4, 4, 6), np.float32)})


def test_an_optional_input_that_is_left_out_is_zeros():
    spec = TensorSpec("scale", F32, (None, 3), optional=True)
    taken = Signature((*UNET.inputs, spec), UNET.outputs, UNET.side_multiple)
    checked = check_inputs(taken, inputs())
    assert list(checked) == ["sample", "timestep", "scale"]
    np.testing.assert_array_equal(checked["scale"], np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="different batch sizes"):
        check_inputs(taken, inputs(scale=np.zeros((1, 3), np.float32)))


@pytest.mark.parametrize("token", [-1, 100, 2**62])
def test_an_element_out_of_range_is_refused(token):
    spec = TensorSpec("input_ids", np.dtype(np.int64), (None, 3), below=100)
    tokens = np.array([[0, 99, 5]])
    assert check_inputs(Signature((spec,), ()), {"input_ids": tokens})
    tokens[0, 1] = token
    with pytest.raises(ValueError, match="input_ids must be at least 0 and below 100"):
        check_inputs(Signature((spec,), ()), {"input_ids": tokens})
