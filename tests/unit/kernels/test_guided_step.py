"""Guidance and sampler step: the kernel, the reference and the CPU's numpy give the same bits."""

import numpy as np
import pytest
import torch
from kernel_tolerances import DTYPES, dtype_id, random

from sangsang.kernels.guided_step import guided_step
from sangsang.kernels.guided_step.reference import guided_step_reference
from sangsang.services.diffusion.guided_step import guide
from sangsang.services.diffusion.guided_step import guided_step as numpy_step

NAN = float("nan")
# Rows of each picture, history, shape of a picture.
BATCHES = {
    "pocket's latents, all numbers of rows at once": ((1, 2, 3, 2), 2, (4, 16, 16)),
    "SD 1.5, two guided pictures of 512 px, an eighth of the side": ((2, 2), 1, (4, 8, 8)),
    "four pairs, as PNDM needs": ((2, 1), 4, (4, 8, 8)),
    "a size that no vector divides, and a tail": ((3, 1), 3, (4, 17, 19)),
    "one picture of one element": ((1,), 1, (1,)),
    "no picture": ((), 2, (4, 4, 4)),
}


def operands(counts, history, shape, dtype=torch.float32, noise=True):
    pictures = len(counts)
    firsts = np.cumsum([0, *counts])[:-1].tolist()
    rows = torch.tensor(list(zip(firsts, counts, strict=True)), dtype=torch.int32).view(-1, 2)
    coefficients = random(pictures, 3 + 2 * history, seed=4)
    coefficients[:, :2] = coefficients[:, :2].abs() * 7.5
    return (
        random(sum(counts), *shape, dtype=dtype),
        random(history, pictures, *shape, seed=1),
        random(history - 1, pictures, *shape, seed=2),
        random(pictures, *shape, seed=3) if noise else None,
        rows,
        coefficients,
    )


def assert_same_bits(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("noise", [True, False], ids=["noise", "no noise"])
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize(("counts", "history", "shape"), BATCHES.values(), ids=BATCHES)
def test_the_kernel_has_the_bits_of_the_reference(
    interpreted, counts, history, shape, dtype, noise
):
    batch = operands(counts, history, shape, dtype, noise)
    assert_same_bits(guided_step(*batch), guided_step_reference(*batch))


def test_what_a_zero_multiplies_is_never_read(interpreted):
    outputs, latents, past, noise, rows, numbers = operands((1, 2, 3), 3, (4, 5, 5))
    numbers[0, [2, 4, 5, 7, 8]] = 0.0
    latents[1:, 0], past[:, 0], noise[0] = NAN, NAN, NAN
    batch = (outputs, latents, past, noise, rows, numbers)
    following, guided = guided_step(*batch)
    assert following.isfinite().all()
    assert_same_bits((following, guided), guided_step_reference(*batch))


def test_a_picture_does_not_depend_on_its_neighbours(interpreted):
    outputs, latents, past, noise, rows, numbers = operands((2, 1, 3), 2, (4, 6, 6))
    together = guided_step(outputs, latents, past, noise, rows, numbers)
    last = (latents[:, 2:], past[:, 2:], noise[2:], rows[2:], numbers[2:])
    alone = guided_step(outputs, *last)
    assert_same_bits([tensor[0] for tensor in alone], [tensor[2] for tensor in together])


def test_it_is_the_step_that_the_cpu_takes(interpreted):
    """`services/diffusion`: one and two rows, which are all that it has."""
    counts, history = (1, 2, 2), 3
    batch = operands(counts, history, (4, 16, 16))
    outputs, latents, past, noise, rows, numbers = batch
    following, guided = guided_step(*batch)
    for picture, (first, count) in enumerate(rows.tolist()):
        own = numbers[picture].numpy()
        output = guide(outputs[first : first + count].numpy(), float(own[0]))
        expected = numpy_step(
            list(latents[:, picture].numpy()),
            [output, *past[:, picture].numpy()],
            own[3 : 3 + history],
            own[3 + history :],
            own[2],
            noise[picture].numpy(),
        )
        assert np.array_equal(guided[picture].numpy(), output)
        assert np.array_equal(following[picture].numpy(), expected)


def test_three_rows_are_those_of_instruct_pix2pix():
    """diffusers adds in another order, so to the rounding."""
    batch = operands((3,), 1, (4, 8, 8), noise=False)
    negative, image, text = batch[0]
    image_scale, scale = batch[5][0, :2]
    expected = negative + scale * (text - image) + image_scale * (image - negative)
    torch.testing.assert_close(guided_step_reference(*batch)[1][0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrong", range(6))
def test_what_does_not_fit_is_named(wrong):
    batch = list(operands((2, 2), 2, (4, 3, 3)))
    batch[wrong] = batch[wrong][..., :1]
    with pytest.raises(ValueError, match=r"guided_step: \w+ should be \("):
        guided_step(*batch)


def test_half_precision_latents_are_refused():
    batch = list(operands((2,), 1, (4, 3, 3)))
    batch[1] = batch[1].half()
    with pytest.raises(ValueError, match="guided_step takes fp32"):
        guided_step(*batch)
