"""The maths of one distillation step: where a teacher gets to, and what a student must say for it.

Notation as in Salimans & Ho, "Progressive Distillation for Fast Sampling of Diffusion Models"
(2022): noisy latents z_t = alpha_t x + sigma_t eps with alpha_t^2 + sigma_t^2 = 1; deterministic
DDIM steps; the student is asked for the clean x that takes it in one step to where its teacher
arrives in several.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Behind every other timestep: the clean picture.
CLEAN = -1


@dataclass(frozen=True, slots=True)
class NoiseLevel:
    """Signal and noise of one timestep for each row.

    Attributes:
        alpha: [row, 1, 1, 1], f32, share of the clean latents.
        sigma: [row, 1, 1, 1], f32, share of the noise.
    """

    alpha: Tensor
    sigma: Tensor


class NoiseSchedule:
    """The noise levels of a diffusers scheduler and the timesteps it visits.

    Args:
        scheduler: e.g. a `DDIMScheduler` made from the model folder's configuration.
        device: where the levels lie.
    """

    def __init__(self, scheduler: Any, device: torch.device | str = "cpu") -> None:
        self._scheduler = scheduler
        self.prediction_type: str = scheduler.config.prediction_type
        self.train_step_count: int = scheduler.config.num_train_timesteps
        end = torch.as_tensor(scheduler.final_alpha_cumprod, dtype=torch.float64)
        signal = torch.cat([scheduler.alphas_cumprod.double(), end.reshape(1)]).to(device)
        # The last entry, which index -1 reaches, is the end of the schedule.
        self._alphas = signal.sqrt().float()
        self._sigmas = (1 - signal).clamp(min=0).sqrt().float()

    def level(self, timesteps: Tensor) -> NoiseLevel:
        """Returns the levels of [row] int64 timesteps; `CLEAN` is the end of the schedule."""
        shape = (-1, 1, 1, 1)
        return NoiseLevel(self._alphas[timesteps].view(shape), self._sigmas[timesteps].view(shape))

    def served_timesteps(self, step_count: int) -> Tensor:
        """Returns the timesteps that serving visits in so many steps, then `CLEAN`; int64."""
        self._scheduler.set_timesteps(step_count)
        visited = torch.as_tensor(self._scheduler.timesteps).long().cpu()
        return torch.cat([visited, torch.tensor([CLEAN])])

    def clean(self, output: Tensor, noisy: Tensor, at: NoiseLevel) -> Tensor:
        """Returns the clean latents that a network's output means.

        Raises:
            ValueError: the prediction type is none of epsilon, v_prediction, sample.
        """
        match self.prediction_type:
            case "v_prediction":
                return at.alpha * noisy - at.sigma * output
            case "epsilon":
                return (noisy - at.sigma * output) / at.alpha
            case "sample":
                return output
        raise ValueError(f"prediction type {self.prediction_type!r} cannot be distilled")


def noised(clean: Tensor, noise: Tensor, at: NoiseLevel) -> Tensor:
    """Returns clean latents with noise at a level: z_t = alpha_t x + sigma_t eps."""
    return at.alpha * clean + at.sigma * noise


def ddim_step(noisy: Tensor, clean: Tensor, at: NoiseLevel, to: NoiseLevel) -> Tensor:
    """Returns the latents at `to`: Song et al. (2021), equation 12 without noise."""
    noise = (noisy - at.alpha * clean) / at.sigma
    return to.alpha * clean + to.sigma * noise


def clean_that_reaches(reached: Tensor, noisy: Tensor, at: NoiseLevel, to: NoiseLevel) -> Tensor:
    """Returns the clean latents whose single DDIM step from `noisy` arrives at `reached`.

    Salimans & Ho, algorithm 2: (z_s - (sigma_s/sigma_t) z_t) / (alpha_s - (sigma_s/sigma_t)
    alpha_t). `to` must be less noisy than `at`.
    """
    ratio = to.sigma / at.sigma
    return (reached - ratio * noisy) / (to.alpha - ratio * at.alpha)


def truncated_snr(at: NoiseLevel) -> Tensor:
    """Returns max(alpha^2 / sigma^2, 1), [row, 1, 1, 1]: Salimans & Ho, section 4.

    As a weight of the clean latents' squared error it gives the larger of the errors in x and in
    eps, so that steps from pure noise, where the ratio is 0, are learnt too.
    """
    return (at.alpha.square() / at.sigma.square()).clamp(min=1.0)


def substeps(start: Tensor, end: Tensor, count: int) -> list[Tensor]:
    """Returns count + 1 timesteps from `start` to `end`, [row] int64 each, evenly spaced.

    Halves are rounded towards the start, so that a step of one timestep stays one.
    """
    span = end - start
    return [start + torch.div(span * i, count, rounding_mode="trunc") for i in range(count + 1)]
