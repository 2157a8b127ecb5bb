"""The models that this mesh serves, and what a request may ask of each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..services.runtime.errors import ModelNotFound
from .plan import TierName


@dataclass(frozen=True, slots=True)
class TierSettings:
    """The settings of a request of one tier that leaves them open."""

    step_count: int
    max_step_count: int
    guidance_scale: float
    scheduler: str
    weights: str


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What a request may ask for; sizes in pixels."""

    min_step_count: int
    max_step_count: int
    min_size_px: int
    max_size_px: int
    max_pixel_count: int
    size_multiple_px: int
    default_width_px: int
    default_height_px: int
    max_guidance_scale: float
    max_image_count: int
    max_token_count: int


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model.

    Attributes:
        schedulers: names that a request may give, with the most steps of each.
        refused_schedulers: names that cannot be served, with the reason.
    """

    model_id: str
    description: str
    default_tier: TierName
    tiers: Mapping[TierName, TierSettings]
    scheduler_max_steps: Mapping[str, int]
    refused_schedulers: Mapping[str, str]
    limits: ModelLimits

    @property
    def schedulers(self) -> tuple[str, ...]:
        """Names that a request may give."""
        return tuple(self.scheduler_max_steps)

    def max_steps_of(self, scheduler: str) -> int:
        """Returns the most steps of a scheduler; those of the model for an unknown one."""
        return self.scheduler_max_steps.get(scheduler, self.limits.max_step_count)


class Catalogue:
    """The served models by name."""

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self._models = {model.model_id: model for model in models}

    @property
    def model_ids(self) -> tuple[str, ...]:
        """Names of the models, sorted."""
        return tuple(sorted(self._models))

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """The models, sorted by name."""
        return tuple(self._models[model_id] for model_id in self.model_ids)

    def find(self, model_id: str) -> ServedModel | None:
        """Returns the model of this name, or None."""
        return self._models.get(model_id)

    def not_found(self, model_id: str) -> ModelNotFound:
        """Returns the error for a name that is not served."""
        return ModelNotFound(model_id, self.model_ids)
