"""Guidance and sampler step in one: the update that follows every UNet evaluation.

On a GPU this is one fused kernel; here it is numpy. Every operation is elementwise, in f32 and in
a fixed order, so a picture's bits cannot depend on what else is in the batch.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .jobs import Array

Coefficients = NDArray[np.float32]


def guided_step(
    latents: Sequence[Array],
    outputs: Sequence[Array],
    latent_coefficients: Coefficients,
    output_coefficients: Coefficients,
    noise_scale: np.float32,
    noise: Array | None,
) -> Array:
    """Returns the next latents: `sum_j (a_j * x_{i-j} + b_j * m_{i-j}) + s * noise`.

    Args:
        latents: `[channels, height, width]` each, f32, newest first; the history may be short.
        outputs: the guided model outputs of the same steps, newest first.
        latent_coefficients: `[history]`, the `a`, newest first.
        output_coefficients: `[history]`, the `b`, newest first.
        noise_scale: the `s`.
        noise: `[channels, height, width]`, f32; None for none.
    """
    result = latent_coefficients[0] * latents[0]
    result += output_coefficients[0] * outputs[0]
    for age in range(1, min(len(latents), len(latent_coefficients))):
        if latent_coefficients[age]:
            result += latent_coefficients[age] * latents[age]
        if output_coefficients[age]:
            result += output_coefficients[age] * outputs[age]
    if noise is not None and noise_scale:
        result += noise_scale * noise
    return result


def guide(outputs: Array, guidance_scale: float) -> Array:
    """Returns `[channels, height, width]`, the output that the sampler sees.

    Args:
        outputs: `[rows, channels, height, width]`, f32: one row, or the negative prompt's and
            the prompt's.
        guidance_scale: weight of the difference between the two.
    """
    if len(outputs) == 1:
        return outputs[0].copy()
    negative, positive = outputs
    return negative + np.float32(guidance_scale) * (positive - negative)
