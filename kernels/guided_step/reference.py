"""Guidance and sampler step as plain torch: what the kernel has to compute, to the bit."""

import torch
from torch import Tensor


def guided_step_reference(
    outputs: Tensor,
    latents: Tensor,
    past_outputs: Tensor,
    noise: Tensor | None,
    rows: Tensor,
    coefficients: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns the next latents and the guided outputs, both `[pictures, ...]`, fp32.

    `m = r_0 + g_1 * (r_1 - r_0) + g_2 * (r_2 - r_1)` over a picture's rows (Ho and Salimans 2022;
    Brooks et al. 2023 for three), then `sum_j (a_j * x_{i-j} + b_j * m_{i-j}) + s * noise`. Every
    operation is elementwise, in fp32, rounded each time and in this order. Coefficients that are
    zero are left out, those of the newest pair excepted.

    The arguments are those of `guided_step`.
    """
    steps = [
        _step(outputs, latents[:, i], past_outputs[:, i], _of(noise, i), first, count, numbers)
        for i, ((first, count), numbers) in enumerate(
            zip(rows.tolist(), coefficients.cpu(), strict=True)
        )
    ]
    if not steps:
        return torch.empty_like(latents[0]), torch.empty_like(latents[0])
    return torch.stack([latent for latent, _ in steps]), torch.stack([m for _, m in steps])


def _of(noise: Tensor | None, picture: int) -> Tensor | None:
    return None if noise is None else noise[picture]


def _step(
    outputs: Tensor,
    latents: Tensor,
    past_outputs: Tensor,
    noise: Tensor | None,
    first: int,
    count: int,
    numbers: Tensor,
) -> tuple[Tensor, Tensor]:
    history = len(latents)
    guidance, noise_scale = numbers[:2], numbers[2]
    of_latents, of_outputs = numbers[3 : 3 + history], numbers[3 + history :]
    guided = _guide(outputs[first : first + count].float(), guidance)
    result = of_latents[0] * latents[0]
    result = result + of_outputs[0] * guided
    for age in range(1, history):
        if of_latents[age]:
            result = result + of_latents[age] * latents[age]
        if of_outputs[age]:
            result = result + of_outputs[age] * past_outputs[age - 1]
    if noise is not None and noise_scale:
        result = result + noise_scale * noise
    return result, guided


def _guide(rows: Tensor, guidance: Tensor) -> Tensor:
    guided = rows[0]
    for weaker, stronger, scale in zip(rows[:-1], rows[1:], guidance, strict=False):
        guided = guided + scale * (stronger - weaker)
    return guided
