"""The models that this mesh serves, and what a request may ask of each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..services.runtime.errors import FieldViolation, ModelNotFound, ModelNotReady
from ..services.runtime.models.folder import ModelFolder
from ..services.runtime.models.manifest import Manifest, Tier
from ..services.runtime.models.sampling import load_tables
from .plan import TierName


class Samplers(Protocol):
    """The samplers that a model was built with."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names that a request may give, the model's own first."""
        ...

    def violations(self, name: str, step_count: int) -> list[FieldViolation]:
        """Returns what is wrong with asking for a sampler and its steps, by field."""
        ...


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
    min_width_px: int
    max_width_px: int
    min_height_px: int
    max_height_px: int
    max_pixel_count: int
    size_multiple_px: int
    default_width_px: int
    default_height_px: int
    max_guidance_scale: float
    max_image_count: int
    max_token_count: int


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model: what its tiers mean, its samplers, its limits, the weights of its UNet."""

    model_id: str
    description: str
    default_tier: TierName
    tiers: Mapping[TierName, TierSettings]
    samplers: Samplers
    limits: ModelLimits
    weights: tuple[str, ...] = ("base",)


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


def open_catalogue(folders: Sequence[Path], cache_dir: Path) -> Catalogue:
    """Returns the models of some folders. Reads no weights.

    Raises:
        ModelNotReady: none was named, one cannot be served or is not built, or two have one name.
    """
    if not folders:
        raise ModelNotReady("no model to serve: set SANGSANG_MODELS to one or more model folders")
    models: dict[str, ServedModel] = {}
    for path in folders:
        model = _open_model(ModelFolder.open(path), cache_dir)
        if model.model_id in models:
            raise ModelNotReady(f"{path}: there is another model {model.model_id!r}; rename one")
        models[model.model_id] = model
    return Catalogue(models.values())


def _open_model(folder: ModelFolder, cache_dir: Path) -> ServedModel:
    manifest = Manifest.read(folder)
    tables = load_tables(folder, cache_dir)
    scheduler = manifest.default_scheduler or tables.names[0]
    limits = _limits(folder, manifest)
    tiers = {name: _tier(tier, scheduler, limits) for name, tier in manifest.tiers.items()}
    for name, tier in tiers.items():
        for bad in tables.violations(tier.scheduler, tier.step_count):
            raise ModelNotReady(f"{folder.path}: tier {name}: {bad.field} {bad.description}")
    # A model with one tier gives the same to everyone.
    only = tiers[manifest.default_tier]
    return ServedModel(
        model_id=manifest.model_id,
        description=manifest.description,
        default_tier=manifest.default_tier,
        tiers={"free": tiers.get("free", only), "pro": tiers.get("pro", only)},
        samplers=tables,
        limits=limits,
        weights=manifest.weight_names,
    )


def _tier(tier: Tier, default_scheduler: str, limits: ModelLimits) -> TierSettings:
    return TierSettings(
        step_count=tier.step_count,
        max_step_count=tier.max_step_count or limits.max_step_count,
        guidance_scale=tier.guidance_scale,
        scheduler=tier.scheduler or default_scheduler,
        weights=tier.weights,
    )


def _limits(folder: ModelFolder, manifest: Manifest) -> ModelLimits:
    limits = manifest.limits
    return ModelLimits(
        min_step_count=limits.step_count.min,
        max_step_count=limits.step_count.max,
        min_width_px=limits.width_px.min,
        max_width_px=limits.width_px.max,
        min_height_px=limits.height_px.min,
        max_height_px=limits.height_px.max,
        max_pixel_count=limits.max_pixel_count,
        size_multiple_px=folder.size_multiple_px,
        default_width_px=folder.default_width_px,
        default_height_px=folder.default_height_px,
        max_guidance_scale=limits.guidance_scale.max,
        max_image_count=limits.max_image_count,
        max_token_count=folder.token_limit,
    )
