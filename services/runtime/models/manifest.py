"""What a model offers: tiers, limits and a name, from an optional `sangsang.json` in its folder.

Any diffusers folder can be served without the file; what it does not say is derived from the
folder. Every error names the field, because people write this file by hand.
"""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import ModelNotReady
from .folder import MANIFEST_NAME, MODULE_NAMES, ModelFolder, ModuleName

TierName = Literal["free", "pro"]

BASE_WEIGHTS = "base"
# diffusers' own name for the file of a LoRA.
ADAPTER_FILE_NAME = "pytorch_lora_weights.safetensors"

DEFAULT_STEP_COUNT = 30
DEFAULT_GUIDANCE_SCALE = 7.5
# Pictures may be this many times as wide or high as those that the model was trained on.
_SIZE_RANGE = (0.25, 2.0)

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_Count = Annotated[int, Field(ge=1)]
_Scale = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tier(_Frozen):
    """What a caller of one tier gets when the request leaves it open, and the most it may ask for.

    Attributes:
        step_count: denoising steps.
        guidance_scale: 1 or below runs without guidance, at half the cost.
        scheduler: name of the sampler; None is the model's default.
        weights: `base`, or the name of another set of the UNet's weights.
        max_step_count: most steps a request of this tier may ask for.
    """

    step_count: _Count
    guidance_scale: _Scale
    scheduler: str | None = None
    weights: str = Field(default="base", min_length=1)
    max_step_count: _Count | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_step_count is not None and self.step_count > self.max_step_count:
            raise ValueError(f"step_count {self.step_count} exceeds max_step_count")
        return self


class WeightSet(_Frozen):
    """Another set of the UNet's weights: a low-rank adapter of it, or a second full UNet.

    Attributes:
        adapter: folder of a LoRA as diffusers saves it, e.g. `adapters/student`.
        unet: folder of a UNet of the same architecture, e.g. `student_unet`.
    """

    adapter: str | None = None
    unet: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.adapter is None) == (self.unet is None):
            raise ValueError("name either an adapter or a unet")
        # A model folder may come from anywhere: nothing outside it is read.
        path = PurePosixPath(self.path)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"{self.path!r} is not a folder inside the model's")
        if self.unet is not None and len(path.parts) != 1:
            raise ValueError(f"{self.unet!r} must lie in the model's folder itself")
        return self

    @property
    def path(self) -> str:
        """The folder, relative to the model's."""
        return self.adapter or self.unet or ""


class Range(_Frozen):
    """Both ends are allowed."""

    min: _Count
    max: _Count

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} exceeds max {self.max}")
        return self


class GuidanceLimit(_Frozen):
    """Most guidance that a request may ask for."""

    max: _Scale = 30.0


class Limits(_Frozen):
    """What a request may ask for at most.

    Attributes:
        width_px: width of a picture; also a multiple of `ModelFolder.size_multiple_px`.
        height_px: height of a picture; the same.
        step_count: denoising steps, whatever the tier.
        guidance_scale: guidance scale.
        max_image_count: pictures of one request.
        max_pixel_count: width times height of one picture.
    """

    width_px: Range
    height_px: Range
    step_count: Range = Range(min=1, max=100)
    guidance_scale: GuidanceLimit = GuidanceLimit()
    max_image_count: _Count = 8
    max_pixel_count: _Count


class _File(_Frozen):
    """The file as people write it: everything is optional."""

    model_id: _Name | None = None
    description: str = ""
    default_tier: TierName | None = None
    default_scheduler: str | None = None
    tiers: dict[TierName, Tier] = {}
    weights: dict[_Name, WeightSet] = {}
    limits: "_FileLimits | None" = None


class _FileLimits(_Frozen):
    width_px: Range | None = None
    height_px: Range | None = None
    step_count: Range | None = None
    guidance_scale: GuidanceLimit | None = None
    max_image_count: _Count | None = None
    max_pixel_count: _Count | None = None


class Manifest(_Frozen):
    """What a model offers, complete. Make it with `Manifest.read`.

    Attributes:
        model_id: name under which the model is served.
        description: one or two sentences for people; may be empty.
        default_tier: tier of a request that names none.
        default_scheduler: name of the sampler when neither request nor tier name one; None is
            the folder's own.
        tiers: at least one tier.
        weights: sets of the UNet's weights besides `base`, by name.
        limits: what a request may ask for at most.
    """

    model_id: str
    description: str
    default_tier: TierName
    default_scheduler: str | None
    tiers: dict[TierName, Tier]
    weights: dict[str, WeightSet]
    limits: Limits

    @property
    def weight_names(self) -> tuple[str, ...]:
        """Every set of the UNet's weights that a tier may name: `base` first."""
        return (BASE_WEIGHTS, *self.weights)

    @property
    def adapters(self) -> Mapping[str, str]:
        """The folder of each low-rank adapter, by name, in the file's order."""
        return {name: one.adapter for name, one in self.weights.items() if one.adapter}

    @property
    def unets(self) -> Mapping[str, str]:
        """The folder of each further full UNet, by name, in the file's order."""
        return {name: one.unet for name, one in self.weights.items() if one.unet}

    @classmethod
    def read(cls, folder: ModelFolder) -> Self:
        """Returns the manifest of a folder, derived from the folder where the file is silent.

        Raises:
            ModelNotReady: the file is not what it should be; the message names every bad field.
        """
        stated = _read_file(folder)
        tiers = stated.tiers or _default_tiers()
        default_tier = stated.default_tier or ("free" if "free" in tiers else "pro")
        if default_tier not in tiers:
            raise _refusal(folder, [f"default_tier: {default_tier} is not among the tiers"])
        limits = _limits(folder, stated.limits or _FileLimits())
        problems = [
            *_weight_problems(folder, stated.weights),
            *_tier_problems(tiers, limits, (BASE_WEIGHTS, *stated.weights)),
        ]
        if problems:
            raise _refusal(folder, problems)
        return cls(
            model_id=folder.model_id,
            description=stated.description,
            default_tier=default_tier,
            default_scheduler=stated.default_scheduler,
            tiers=tiers,
            weights=stated.weights,
            limits=limits,
        )


def _weight_problems(folder: ModelFolder, sets: Mapping[str, WeightSet]) -> list[str]:
    problems = [f"weights.{BASE_WEIGHTS}: the name of the UNet's own"] * (BASE_WEIGHTS in sets)
    for name, one in sets.items():
        if one.adapter and not (folder.path / one.adapter / ADAPTER_FILE_NAME).is_file():
            problems.append(f"weights.{name}.adapter: {one.adapter} has no {ADAPTER_FILE_NAME}")
        if one.unet and not (folder.path / one.unet / "config.json").is_file():
            problems.append(f"weights.{name}.unet: {one.unet} has no config.json")
    return problems


def _tier_problems(
    tiers: Mapping[TierName, Tier], limits: Limits, weight_names: tuple[str, ...]
) -> list[str]:
    problems = [
        f"tiers.{name}.{field}: {value} is outside limits.step_count"
        for name, tier in tiers.items()
        for field, value in (
            ("step_count", tier.step_count),
            ("max_step_count", tier.max_step_count or limits.step_count.max),
        )
        if not limits.step_count.min <= value <= limits.step_count.max
    ]
    problems += [
        f"tiers.{name}.weights: {tier.weights!r} is not among {', '.join(weight_names)}"
        for name, tier in tiers.items()
        if tier.weights not in weight_names
    ]
    return problems


def model_parts(folder: ModelFolder) -> tuple[tuple[ModelFolder, ModuleName], ...]:
    """Returns what has to be built of a model: its modules, then its further UNets.

    Raises:
        ModelNotReady: the manifest is bad, or a further UNet is of another architecture.
    """
    unets = dict.fromkeys(Manifest.read(folder).unets.values())
    further: list[tuple[ModelFolder, ModuleName]] = [(folder.with_unet(n), "unet") for n in unets]
    return (*((folder, module) for module in MODULE_NAMES), *further)


def _default_tiers() -> dict[TierName, Tier]:
    # A folder that says nothing is an undistilled model: both tiers get the same picture.
    tier = Tier(step_count=DEFAULT_STEP_COUNT, guidance_scale=DEFAULT_GUIDANCE_SCALE)
    return {"free": tier, "pro": tier}


def _read_file(folder: ModelFolder) -> _File:
    path = folder.path / MANIFEST_NAME
    if not path.is_file():
        return _File()
    try:
        return _File.model_validate(json.loads(path.read_text("utf-8")))
    except ValidationError as exc:
        problems = [
            f"{'.'.join(map(str, error['loc'])) or 'the file'}: {error['msg']}"
            for error in exc.errors()
        ]
        raise _refusal(folder, problems) from exc
    except ValueError as exc:
        raise _refusal(folder, [f"not JSON: {exc}"]) from exc


def _refusal(folder: ModelFolder, problems: list[str]) -> ModelNotReady:
    return ModelNotReady(f"{folder.path / MANIFEST_NAME}: {'; '.join(problems)}")


def _limits(folder: ModelFolder, stated: _FileLimits) -> Limits:
    width_px = stated.width_px or _side_range(folder.default_width_px, folder.size_multiple_px)
    height_px = stated.height_px or _side_range(folder.default_height_px, folder.size_multiple_px)
    said = {name: value for name, value in stated if value is not None}
    return Limits.model_validate(
        {
            "max_pixel_count": width_px.max * height_px.max,
            **said,
            "width_px": width_px,
            "height_px": height_px,
        }
    )


def _side_range(default_px: int, multiple_px: int) -> Range:
    low, high = (int(default_px * share) // multiple_px * multiple_px for share in _SIZE_RANGE)
    return Range(min=max(low, multiple_px), max=max(high, multiple_px))
