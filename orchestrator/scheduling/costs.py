"""What work costs: estimates that follow what is measured.

Costs are device-seconds: the share of a device's time that a row takes when its batch is as full
as batches have been of late. Latencies are what one request sees. Both start from the model's
profile, where there is one, and follow an exponential average of what the stages report.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .work import HEAVY_STAGE, Model, StageName, Work

# Share of a new observation; about the last twenty count.
_FOLLOW = 0.1


@dataclass(frozen=True, slots=True)
class InitialCosts:
    """What a model's profile says of it.

    Attributes:
        row_step_s: seconds of the device for one row and one step in a full batch, at the model's
            `pixels`.
        step_s: seconds of one step of a full batch.
        light_s: seconds of one call of each other stage.
        pixels: of the pictures that this was measured with.
    """

    row_step_s: float
    step_s: float
    light_s: Mapping[StageName, float]
    pixels: int


@dataclass(slots=True)
class _Average:
    value: float | None = None

    def add(self, seen: float) -> None:
        self.value = seen if self.value is None else self.value + _FOLLOW * (seen - self.value)


@dataclass(slots=True)
class _ModelCosts:
    # By pixel, so that other sizes can be estimated.
    row_step_pixel_s: _Average = field(default_factory=_Average)
    step_pixel_s: _Average = field(default_factory=_Average)


class Costs:
    """Estimates for every model.

    Args:
        profiles: by model ID; a model that is not named is unknown until it has been observed.
    """

    def __init__(self, profiles: Mapping[str, InitialCosts] | None = None) -> None:
        self._models: dict[str, _ModelCosts] = {}
        self._light: dict[Model, _Average] = {}
        for model_id, profile in (profiles or {}).items():
            costs = self._models.setdefault(model_id, _ModelCosts())
            costs.row_step_pixel_s.add(profile.row_step_s / profile.pixels)
            costs.step_pixel_s.add(profile.step_s / profile.pixels)
            for stage, seconds in profile.light_s.items():
                self._light.setdefault((stage, model_id), _Average()).add(seconds)

    def picture_seconds(self, work: Work) -> float:
        """Returns the device-seconds of one picture's steps; 0 while nothing is known."""
        costs = self._models.get(work.model_id)
        each = costs.row_step_pixel_s.value if costs else None
        return (each or 0.0) * _pixels(work) * work.step_count * work.row_count

    def call_seconds(self, stage: StageName, work: Work) -> float:
        """Returns the device-seconds of one call; 0 while nothing is known."""
        if stage == HEAVY_STAGE:
            return self.picture_seconds(work)
        average = self._light.get((stage, work.model_id))
        return (average.value if average else None) or 0.0

    def latency_s(self, work: Work) -> float:
        """Returns how long a picture takes once it has started; 0 while nothing is known."""
        costs = self._models.get(work.model_id)
        step_s = (costs.step_pixel_s.value if costs else None) or 0.0
        steps = step_s * _pixels(work) * work.step_count
        light = sum(
            average.value or 0.0
            for (_, model_id), average in self._light.items()
            if model_id == work.model_id
        )
        return steps + light

    def observe_steps(self, work: Work, compute_s: float, duration_s: float) -> None:
        """Learns from a finished picture: the compute it is charged for, and how long it took."""
        if not work.step_count:
            return
        costs = self._models.setdefault(work.model_id, _ModelCosts())
        step_pixels = work.step_count * _pixels(work)
        costs.row_step_pixel_s.add(compute_s / (step_pixels * work.row_count))
        costs.step_pixel_s.add(duration_s / step_pixels)

    def observe_call(self, stage: StageName, work: Work, duration_s: float) -> None:
        """Learns from a finished call of a light stage."""
        self._light.setdefault((stage, work.model_id), _Average()).add(duration_s)


def _pixels(work: Work) -> int:
    return work.height_px * work.width_px
