"""Reads a diffusers scheduler's coefficients out of the scheduler itself.

A scheduler does not care what a "pixel" is. So each probe tensor has one element per unknown: the
latents and the model output of every step get an element of their own, and what `step` returns is
the row of coefficients by which they enter. Behind these come a few lanes of ordinary random
numbers with an arbitrary nonlinear model, run by the scheduler as usual: the truth that the table
read from the same run must reproduce.
"""

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..models.sampler_tables import Floats

Doubles = NDArray[np.float64]

# Ordinary elements behind the unknowns.
LANE_COUNT = 32
_LANE_OFFSETS = np.linspace(-1, 1, LANE_COUNT)
_LANE_SEED = 20261123


class NotAffine(ValueError):
    """The scheduler cannot be a table; the message says why, for the user of the mesh."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name
        self.why = why


@dataclass(frozen=True, slots=True)
class Probe:
    """What one run of a scheduler showed, all f64.

    Attributes:
        timesteps: `[rows]`.
        input_scales: `[rows]`.
        latent_parts: `[rows, rows]`; how latents `j` enter the result of step `i`.
        output_parts: `[rows, rows]`; how output `j` enters the result of step `i`.
        noise_scales: `[rows]`.
        draws_noise: `[rows]`, whether step `i` drew noise.
        lane_outputs: `[rows, lanes]`, the nonlinear model's outputs.
        lane_noise: `[rows, lanes]`.
        lane_latents: `[rows + 1, lanes]`, the scheduler's own trajectory.
    """

    timesteps: Doubles
    input_scales: Doubles
    latent_parts: Doubles
    output_parts: Doubles
    noise_scales: Doubles
    draws_noise: NDArray[np.bool_]
    lane_outputs: Doubles
    lane_noise: Doubles
    lane_latents: Doubles


class _DoubleTorch:
    """The torch that a scheduler sees: several compute in f32, which would blur the rows."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


class _NoiseProbe:
    """Stands in for diffusers' `randn_tensor` and counts what is drawn."""

    def __init__(self) -> None:
        self.noise = torch.zeros(1, dtype=torch.float64)
        self.draw_count = 0

    def __call__(self, *_: Any, **__: Any) -> torch.Tensor:
        self.draw_count += 1
        return self.noise


def lane_model(latents: Floats, timestep: float) -> Floats:
    """Returns the "model output" of the lanes: bounded, nonlinear, different at each timestep."""
    return np.tanh(3 * latents + _LANE_OFFSETS) * math.cos(timestep)


def probe(scheduler: Any, name: str, *, first_row: int = 0, row_limit: int | None = None) -> Probe:
    """Returns what a run of the scheduler shows.

    Args:
        scheduler: after `set_timesteps`, and `set_begin_index` when it starts late.
        name: for errors.
        first_row: timestep to start from.
        row_limit: most rows to run; None runs to the end.

    Raises:
        NotAffine: it draws more than one noise in a step, or scales its input oddly.
    """
    timesteps = scheduler.timesteps[first_row:][:row_limit]
    noise = _NoiseProbe()
    run = _Run(scheduler, name, timesteps, noise)
    with torch.inference_mode(), _observed(scheduler, noise):
        for row, timestep in enumerate(timesteps):
            run.step(row, timestep)
    return run.result()


class _Run:
    """One run; elements: latents of each row, outputs of each row, the noise, then the lanes."""

    def __init__(self, scheduler: Any, name: str, timesteps: Any, noise: _NoiseProbe) -> None:
        count = len(timesteps)
        random = np.random.default_rng(_LANE_SEED)
        self._scheduler = scheduler
        self._name = name
        self._timesteps = timesteps
        self._probe = noise
        self._lanes = slice(2 * count + 1, 2 * count + 1 + LANE_COUNT)
        self._results = np.zeros((count, 2 * count + 1 + LANE_COUNT))
        self._scales = np.zeros(count)
        self._drawn = np.zeros(count, np.bool_)
        self._outputs = np.zeros((count, LANE_COUNT))
        self._noise = random.standard_normal((count, LANE_COUNT))
        self._latents = np.zeros((count + 1, LANE_COUNT))
        self._latents[0] = random.standard_normal(LANE_COUNT) * float(scheduler.init_noise_sigma)

    def step(self, row: int, timestep: Any) -> None:
        """Runs the scheduler's own step on the unknowns and the lanes."""
        count = len(self._timesteps)
        latents = self._tensor(row, self._latents[row])
        scaled = self._scheduler.scale_model_input(latents, timestep).numpy().ravel()
        self._scales[row] = self._input_scale(scaled, row)
        self._outputs[row] = lane_model(scaled[self._lanes], float(timestep))
        outputs = self._tensor(count + row, self._outputs[row])
        self._probe.noise = self._tensor(2 * count, self._noise[row])
        self._probe.draw_count = 0
        result = self._scheduler.step(outputs, timestep, latents).prev_sample
        if self._probe.draw_count > 1:
            raise NotAffine(self._name, "it draws noise more than once in a step")
        self._drawn[row] = bool(self._probe.draw_count)
        self._results[row] = result.numpy().ravel()
        self._latents[row + 1] = self._results[row, self._lanes]

    def result(self) -> Probe:
        """Returns what was seen."""
        count = len(self._timesteps)
        return Probe(
            timesteps=np.asarray(self._timesteps, np.float64),
            input_scales=self._scales,
            latent_parts=self._results[:, :count],
            output_parts=self._results[:, count : 2 * count],
            noise_scales=self._results[:, 2 * count],
            draws_noise=self._drawn,
            lane_outputs=self._outputs,
            lane_noise=self._noise,
            lane_latents=self._latents,
        )

    def _tensor(self, unknown: int, lanes: Doubles) -> torch.Tensor:
        values = np.zeros(self._results.shape[1])
        values[unknown] = 1
        values[self._lanes] = lanes
        return torch.from_numpy(values).view(1, 1, 1, -1)

    def _input_scale(self, scaled: Doubles, row: int) -> float:
        scale = float(scaled[row])
        if not _close(scaled[self._lanes], scale * self._latents[row]):
            raise NotAffine(self._name, "it does more than scale the model's input")
        return scale


def _close(left: Doubles, right: Doubles) -> bool:
    return bool(np.abs(left - right).max() <= 1e-6 * (1 + np.abs(right).max()))


@contextmanager
def _observed(scheduler: Any, noise: _NoiseProbe) -> Iterator[None]:
    """Gives the scheduler's module our noise and keeps its arithmetic in f64."""
    module: Any = importlib.import_module(type(scheduler).__module__)
    replaced = {"randn_tensor": noise, "torch": _DoubleTorch()}
    originals = {name: getattr(module, name) for name in replaced if hasattr(module, name)}
    for name in originals:
        setattr(module, name, replaced[name])
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(module, name, original)


def probe_start(scheduler: Any, timestep: Any) -> tuple[float, float]:
    """Returns signal and noise by which `add_noise` mixes a picture at the start of a run.

    Args:
        scheduler: after `set_timesteps` and `set_begin_index`.
        timestep: `[1]`, the first timestep of the run.
    """
    picture = torch.tensor([[[[1.0, 0.0]]]], dtype=torch.float64)
    noise = torch.tensor([[[[0.0, 1.0]]]], dtype=torch.float64)
    signal, scale = scheduler.add_noise(picture, noise, timestep).numpy().ravel()
    return float(signal), float(scale)
