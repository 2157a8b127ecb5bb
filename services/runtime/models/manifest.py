"""What a model offers: tiers, limits and a name, from an optional `sangsang.json` in its folder.

Any diffusers folder can be served without the file; what it does not say is derived from the
folder. Every error names the field, because people write this file by hand.
"""

import json
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import ModelNotReady
from .folder import MANIFEST_NAME, ModelFolder

TierName = Literal["free", "pro"]

DEFAULT_STEP_COUNT = 30
DEFAULT_GUIDANCE_SCALE = 7.5
# Pictures may be this many times as wide or high as those that the model was trained on.
_SIZE_RANGE = (0.25, 2.0)

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

    model_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    description: str = ""
    default_tier: TierName | None = None
    default_scheduler: str | None = None
    tiers: dict[TierName, Tier] = {}
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
        limits: what a request may ask for at most.
    """

    model_id: str
    description: str
    default_tier: TierName
    default_scheduler: str | None
    tiers: dict[TierName, Tier]
    limits: Limits

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
            f"tiers.{name}.{field}: {value} is outside limits.step_count"
            for name, tier in tiers.items()
            for field, value in (
                ("step_count", tier.step_count),
                ("max_step_count", tier.max_step_count or limits.step_count.max),
            )
            if not limits.step_count.min <= value <= limits.step_count.max
        ]
        if problems:
            raise _refusal(folder, problems)
        return cls(
            model_id=folder.model_id,
            description=stated.description,
            default_tier=default_tier,
            default_scheduler=stated.default_scheduler,
            tiers=tiers,
            limits=limits,
        )


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
