"""Teachers and students as functions from noisy latents to clean ones."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .trajectory import NoiseSchedule


@dataclass(frozen=True, slots=True)
class Conditions:
    """What latents are denoised for.

    Attributes:
        prompts: [row, token, width], embeddings of the prompts.
        empty: [1, token, width], embeddings of the empty prompt, for guidance.
    """

    prompts: Tensor
    empty: Tensor


class Denoiser(Protocol):
    """Says what latents are without their noise."""

    def __call__(self, noisy: Tensor, timesteps: Tensor, conditions: Conditions) -> Tensor:
        """Returns the clean latents, [row, channel, height, width], f32.

        Args:
            noisy: [row, channel, height, width], f32.
            timesteps: [row], int64.
            conditions: of the same rows.
        """
        ...


class UnguidedDenoiser:
    """One pass a step: a student.

    Args:
        unet: a diffusers UNet, or what wraps one.
        schedule: tells what its outputs mean.
    """

    def __init__(self, unet: nn.Module, schedule: NoiseSchedule) -> None:
        self._unet, self._schedule = unet, schedule

    def __call__(self, noisy: Tensor, timesteps: Tensor, conditions: Conditions) -> Tensor:
        output = _run(self._unet, noisy, timesteps, conditions.prompts)
        return self._schedule.clean(output, noisy, self._schedule.level(timesteps))


class GuidedDenoiser:
    """Classifier-free guidance (Ho & Salimans 2022): two passes a step, the original teacher.

    Args:
        unet: a diffusers UNet.
        schedule: tells what its outputs mean.
        guidance_scale: how far beyond the unconditional output; 1 is none.
    """

    def __init__(self, unet: nn.Module, schedule: NoiseSchedule, guidance_scale: float) -> None:
        self._unet, self._schedule, self._scale = unet, schedule, guidance_scale

    def __call__(self, noisy: Tensor, timesteps: Tensor, conditions: Conditions) -> Tensor:
        rows = len(noisy)
        contexts = torch.cat([conditions.empty.expand(rows, -1, -1), conditions.prompts])
        outputs = _run(self._unet, noisy.repeat(2, 1, 1, 1), timesteps.repeat(2), contexts)
        without, with_prompt = outputs.chunk(2)
        guided = without + self._scale * (with_prompt - without)
        return self._schedule.clean(guided, noisy, self._schedule.level(timesteps))


def _run(unet: Any, noisy: Tensor, timesteps: Tensor, contexts: Tensor) -> Tensor:
    return unet(noisy, timesteps, contexts).sample.float()
