"""What work costs: estimates that follow what is measured.

A step of n rows takes `a + b * n` seconds of a device: what is launched and read once, and what
each row adds. The stages report what each call was charged, waiting excluded, and how full its
batches were, from which `a` and `b` follow. They start from the model's profile, if it has one.
Durations are not learnt here: an estimate that learnt them under load would refuse everyone on an
idle mesh.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from .work import HEAVY_STAGE, Model, StageName, Work

# Share of a new observation; about the last ten count, each a whole picture. So a machine that was
# slow for a moment is not taken for slow for long.
_FOLLOW = 0.2
# What the least grows by with each observation, so that it does not stay for ever.
_FORGET = 1.01
# Keeps the line level while all batches are of one size.
_STIFFNESS = 1e-4


@dataclass(frozen=True, slots=True)
class InitialCosts:
    """What a model's profile says of it.

    Attributes:
        step_s: seconds of a step at the model's `pixels`, by its rows.
        light_s: seconds of one call of each other stage.
        pixels: of the pictures that this was measured with.
    """

    step_s: Mapping[int, float]
    light_s: Mapping[StageName, float]
    pixels: int


@dataclass(slots=True)
class _Mean:
    value: float = 0.0
    count: int = 0

    def add(self, seen: float) -> None:
        self.count += 1
        # The first ones count alike, later ones less and less for those before.
        self.value += max(_FOLLOW, 1 / self.count) * (seen - self.value)


@dataclass(slots=True)
class _StepCosts:
    """A straight line through what row steps cost, against one over the rows of their batch."""

    inverse: _Mean = field(default_factory=_Mean)
    cost: _Mean = field(default_factory=_Mean)
    squared: _Mean = field(default_factory=_Mean)
    product: _Mean = field(default_factory=_Mean)
    least: float = math.inf
    # Asked for far more often than it changes.
    _line: tuple[float, float] | None = None

    def add(self, row_s: float, batch_row_count: float) -> None:
        inverse = 1 / max(1.0, batch_row_count)
        self.inverse.add(inverse)
        self.cost.add(row_s)
        self.squared.add(inverse * inverse)
        self.product.add(inverse * row_s)
        self.least = min(row_s, self.least * _FORGET)
        self._line = None

    @property
    def line(self) -> tuple[float, float]:
        """Seconds of a step whatever its rows, and of each row; no less than 0."""
        if self._line is None:
            self._line = self._fit()
        return self._line

    def _fit(self) -> tuple[float, float]:
        spread = self.squared.value - self.inverse.value**2
        slope = (self.product.value - self.inverse.value * self.cost.value) / (spread + _STIFFNESS)
        # Neither part is negative, whatever noise says.
        slope = min(max(0.0, slope), self.cost.value / max(self.inverse.value, _STIFFNESS))
        return slope, max(0.0, self.cost.value - slope * self.inverse.value)


class Costs:
    """Estimates for every model; 0 as long as nothing is known.

    Args:
        profiles: by model ID; a model that is not named is unknown until it has been observed.
    """

    def __init__(self, profiles: Mapping[str, InitialCosts] | None = None) -> None:
        # By pixel, so that other sizes can be estimated.
        self._steps: dict[str, _StepCosts] = {}
        self._light: dict[Model, _Mean] = {}
        for model_id, profile in (profiles or {}).items():
            steps = self._steps.setdefault(model_id, _StepCosts())
            for rows, seconds in profile.step_s.items():
                steps.add(seconds / rows / profile.pixels, rows)
            for stage, seconds in profile.light_s.items():
                self._light.setdefault((stage, model_id), _Mean()).add(seconds)

    def picture_seconds(self, work: Work, batch_row_count: int) -> float:
        """Returns the device-seconds of one picture's steps in batches of so many rows."""
        once_s, row_s = self._line(work)
        return (once_s / batch_row_count + row_s) * work.step_count * work.row_count

    def call_seconds(self, stage: StageName, work: Work, batch_row_count: int) -> float:
        """Returns the device-seconds of one call."""
        if stage == HEAVY_STAGE:
            return self.picture_seconds(work, batch_row_count)
        seen = self._light.get((stage, work.model_id))
        return seen.value if seen else 0.0

    def steps_s(self, work: Work, batch_row_count: float) -> float:
        """Returns how long a picture's steps take in batches of some rows, its own among them."""
        once_s, row_s = self._line(work)
        return (once_s + row_s * max(batch_row_count, work.row_count)) * work.step_count

    def light_s(self, work: Work) -> float:
        """Returns the seconds of one picture's calls of the light stages."""
        return sum(m.value for (_, name), m in self._light.items() if name == work.model_id)

    def least_s(self, work: Work) -> float:
        """Returns what a picture's steps take at the very best."""
        steps = self._steps.get(work.model_id)
        if steps is None or math.isinf(steps.least):
            return 0.0
        return steps.least * _pixels(work) * work.step_count * work.row_count

    def observe_steps(self, work: Work, compute_s: float, batch_row_count: float) -> None:
        """Learns from a denoised picture what compute it was charged for, in which batches."""
        if work.step_count:
            row_steps = work.step_count * work.row_count * _pixels(work)
            steps = self._steps.setdefault(work.model_id, _StepCosts())
            steps.add(compute_s / row_steps, batch_row_count)

    def observe_call(self, stage: StageName, work: Work, compute_s: float) -> None:
        """Learns from a finished call of a light stage."""
        self._light.setdefault((stage, work.model_id), _Mean()).add(compute_s)

    def _line(self, work: Work) -> tuple[float, float]:
        steps = self._steps.get(work.model_id)
        once_s, row_s = steps.line if steps else (0.0, 0.0)
        return once_s * _pixels(work), row_s * _pixels(work)


def _pixels(work: Work) -> int:
    return work.height_px * work.width_px
