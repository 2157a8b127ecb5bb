"""Requests to plans: every bad field is named at once, with its limit; nothing is clamped."""

import hashlib
import math
import re
import secrets
import uuid
from typing import Any

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging

from ..services.runtime.errors import FieldViolation, InvalidRequest
from ..services.runtime.picture_checks import PictureLimits, picture_violations
from .catalogue import Catalogue, ModelLimits, ServedModel
from .plan import ANONYMOUS, GenerationPlan, TierName

MAX_TEXT_CHARACTERS = 2000
MAX_INITIAL_IMAGE_BYTES = 8 * 1024 * 1024
MAX_PREVIEW_INTERVAL = 1000
MAX_SEED = 2**63 - 1
DEFAULT_STRENGTH = 0.8
DEFAULT_QUALITY = 90
# Key of a call's metadata that names its tenant.
TENANT_KEY = "sangsang-tenant"
MIME_TYPES = ("image/png", "image/jpeg", "image/webp", "image/avif")

_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")

TIER_NAMES: dict[int, TierName] = {imaging.TIER_FREE: "free", imaging.TIER_PRO: "pro"}


def make_plan(
    spec: imaging.ImageSpec,
    catalogue: Catalogue,
    *,
    request_id: str = "",
    tenant: str | None = None,
    preview_interval_step_count: int = 0,
    min_progress_interval_ms: int = 0,
    max_picture_pixels: int = PictureLimits().max_pixels,
) -> GenerationPlan:
    """Returns the plan of a request.

    Args:
        spec: what to make.
        catalogue: the models that are served, with their limits.
        request_id: the caller's UUID; empty for one of ours.
        tenant: whom the caller says that it is for; None if it does not say.
        preview_interval_step_count: steps between two previews; 0 for none.
        min_progress_interval_ms: least time between progress events without a preview.
        max_picture_pixels: most pixels of an initial image.

    Raises:
        InvalidRequest: naming every bad field.
        ModelNotFound: the fields are good but no such model is served.
    """
    check = _Check()
    check.request_id(request_id)
    check.tenant(tenant)
    check.within(
        "preview_interval_step_count", preview_interval_step_count, 0, MAX_PREVIEW_INTERVAL
    )
    own = _check_own_fields(check, spec, max_picture_pixels)
    seed = spec.seed if spec.HasField("seed") else secrets.randbelow(2**53)
    image_count = spec.image_count if spec.HasField("image_count") else 1
    check.within("spec.seed", seed, 0, MAX_SEED - max(0, min(image_count, 64) - 1))
    if not spec.model_id:
        check.add("spec.model_id", f"is required; models: {', '.join(catalogue.model_ids)}")
    model = catalogue.find(spec.model_id)
    if model is None:
        check.finish()
        raise catalogue.not_found(spec.model_id)
    settings = _check_model_fields(check, spec, model, image_count)
    check.finish()
    return GenerationPlan(
        request_id=request_id or str(uuid.uuid4()),
        model_id=model.model_id,
        seeds=tuple(range(seed, seed + image_count)),
        preview_interval_step_count=preview_interval_step_count,
        min_progress_interval_ms=min_progress_interval_ms,
        tenant=ANONYMOUS if tenant is None else tenant,
        fingerprint=fingerprint_of(spec),
        **own,
        **settings,
    )


def fingerprint_of(spec: imaging.ImageSpec) -> str:
    """Returns what tells one spec from any other; what it leaves open stays open."""
    return hashlib.sha256(spec.SerializeToString(deterministic=True)).hexdigest()


def _check_own_fields(
    check: "_Check", spec: imaging.ImageSpec, max_picture_pixels: int
) -> dict[str, Any]:
    """Returns the settings that are the same for every model, with defaults filled in."""
    check.text("spec.prompt", spec.prompt, required=True)
    check.text("spec.negative_prompt", spec.negative_prompt)
    quality = spec.quality if spec.HasField("quality") else DEFAULT_QUALITY
    check.within("spec.quality", quality, 1, 100)
    mime_type = check.choice("spec.mime_type", spec.mime_type or MIME_TYPES[0], MIME_TYPES)
    check.initial_image(spec, max_picture_pixels)
    return {
        "prompt": spec.prompt,
        "negative_prompt": spec.negative_prompt,
        "initial_image": spec.initial_image.content,
        "mime_type": mime_type,
        "quality": quality,
        "embed_parameters": spec.embed_parameters if spec.HasField("embed_parameters") else True,
    }


def _check_model_fields(
    check: "_Check", spec: imaging.ImageSpec, model: ServedModel, image_count: int
) -> dict[str, Any]:
    """Returns the settings that depend on the model, with its defaults filled in."""
    limits = model.limits
    known = spec.tier in TIER_NAMES or spec.tier == imaging.TIER_UNSPECIFIED
    if not known:
        check.add("spec.tier", f"must be TIER_FREE (1) or TIER_PRO (2), got {spec.tier}")
    tier_name = TIER_NAMES.get(spec.tier, model.default_tier)
    tier = model.tiers[tier_name]
    width_px = check.size("width_px", spec, limits)
    height_px = check.size("height_px", spec, limits)
    if width_px * height_px > limits.max_pixel_count:
        text = f"width_px * height_px must be at most {limits.max_pixel_count}"
        check.add("spec.width_px", f"{text}, got {width_px * height_px}")
    check.within("spec.image_count", image_count, 1, limits.max_image_count)
    guidance = spec.guidance_scale if spec.HasField("guidance_scale") else tier.guidance_scale
    check.within("spec.guidance_scale", guidance, 0, limits.max_guidance_scale)
    scheduler = spec.scheduler or tier.scheduler
    step_count = spec.step_count if spec.HasField("step_count") else tier.step_count
    most = min(tier.max_step_count, limits.max_step_count)
    counted = check.within("spec.step_count", step_count, limits.min_step_count, most)
    for bad in model.samplers.violations(scheduler, step_count):
        # A step count outside the model's own limits is named once.
        if counted or bad.field == "scheduler":
            check.add(f"spec.{bad.field}", bad.description)
    strength = check.strength(spec, step_count)
    return {
        "tier": tier_name,
        "width_px": width_px,
        "height_px": height_px,
        "guidance_scale": guidance,
        "scheduler": scheduler,
        "weights": tier.weights,
        "step_count": step_count,
        "strength": strength,
    }


class _Check:
    """Collects what is wrong with a request."""

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []

    def add(self, field: str, description: str) -> None:
        self._violations.append(FieldViolation(field, description))

    def finish(self) -> None:
        if self._violations:
            raise InvalidRequest(self._violations)

    def within(self, field: str, value: float, least: float, most: float) -> bool:
        # Written so that NaN, which compares false with everything, is out of every range.
        if least <= value <= most:
            return True
        least_text, most_text, text = map(_digits, (least, most, value))
        self.add(field, f"must be from {least_text} to {most_text}, got {text}")
        return False

    def text(self, field: str, value: str, *, required: bool = False) -> None:
        if required and not value.strip():
            self.add(field, f"is required, 1 to {MAX_TEXT_CHARACTERS} characters")
        elif len(value) > MAX_TEXT_CHARACTERS:
            self.add(field, f"must be at most {MAX_TEXT_CHARACTERS} characters, got {len(value)}")

    def request_id(self, value: str) -> None:
        try:
            if value:
                uuid.UUID(value)
        except ValueError:
            self.add("request_id", f"must be a UUID, got {value[:40]!r}")

    def tenant(self, value: str | None) -> None:
        if value is not None and not _TENANT.fullmatch(value):
            text = "must be 1 to 64 characters of [A-Za-z0-9._-]"
            self.add(TENANT_KEY, f"{text}, got {value[:40]!r}")

    def choice(self, field: str, value: str, choices: tuple[str, ...]) -> str:
        if value not in choices:
            self.add(field, f"must be one of {', '.join(choices)}, got {value[:40]!r}")
        return value

    def size(self, name: str, spec: imaging.ImageSpec, limits: ModelLimits) -> int:
        least, most, default = (
            getattr(limits, f"{kind}_{name}") for kind in ("min", "max", "default")
        )
        value: int = getattr(spec, name) if spec.HasField(name) else default
        step = limits.size_multiple_px
        if least <= value <= most and value % step == 0:
            return value
        self.add(
            f"spec.{name}", f"must be a multiple of {step} from {least} to {most}, got {value}"
        )
        # A sound size, so that one bad side is not reported as too many pixels as well.
        return default

    def initial_image(self, spec: imaging.ImageSpec, max_pixels: int) -> None:
        if not spec.HasField("initial_image"):
            return
        content, field = spec.initial_image.content, "spec.initial_image.content"
        if 0 < len(content) <= MAX_INITIAL_IMAGE_BYTES:
            limits = PictureLimits(MAX_INITIAL_IMAGE_BYTES, max_pixels)
            self._violations += picture_violations(content, limits, field=field)
        else:
            self.add(field, f"must be 1 to {MAX_INITIAL_IMAGE_BYTES} bytes, got {len(content)}")

    def strength(self, spec: imaging.ImageSpec, step_count: int) -> float:
        if not spec.HasField("initial_image"):
            return 1.0
        image = spec.initial_image
        strength = image.strength if image.HasField("strength") else DEFAULT_STRENGTH
        field = "spec.initial_image.strength"
        if not 0 < strength <= 1:
            self.add(field, f"must be above 0 and at most 1, got {strength:.17g}")
        elif 0 < step_count < 10_000 and math.floor(strength * step_count) < 1:
            product = f"{strength:g} * {step_count}"
            self.add(field, f"strength * step_count must be at least 1, got {product}")
        return strength


def _digits(value: float) -> str:
    """Returns a number in full: a seed has more digits than a float holds."""
    return str(value) if isinstance(value, int) else f"{value:.17g}"
