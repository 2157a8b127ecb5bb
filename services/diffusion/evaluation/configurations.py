"""What is compared: each tier of the manifest, a control, and whatever the caller adds.

The control has the reference tier's weights and the Free tier's step count. It shows what the step
count alone costs; how far the Free tier lies above it is what distillation is worth.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...runtime.errors import ModelNotReady
from ...runtime.models.folder import MANIFEST_NAME
from ...runtime.models.manifest import DEFAULT_GUIDANCE_SCALE, DEFAULT_STEP_COUNT, Tier
from .weights import BASE

_REFERENCE, _FAST = "pro", "free"
# Of a configuration on the command line: steps, guidance, scheduler, weights.
_FIELD_COUNT = 4


class BadConfiguration(ValueError):
    """A configuration of the command line cannot be read; the message says how to write it."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """One way to draw.

    Attributes:
        name: its row in the table.
        step_count: denoising steps.
        guidance_scale: 1 or below runs without guidance, at half the cost.
        scheduler: name of the sampler; None is the folder's own.
        weights: `base`, or the name of another set of the UNet's weights.
    """

    name: str
    step_count: int
    guidance_scale: float
    scheduler: str | None = None
    weights: str = BASE

    def __str__(self) -> str:
        guidance = f"guidance {self.guidance_scale:g}" if self.guidance_scale > 1 else "unguided"
        return f"{self.step_count} steps, {guidance}"


def read_configurations(folder: Path) -> list[Configuration]:
    """Returns the tiers of a model folder and the control, the reference first.

    Raises:
        ModelNotReady: the manifest is not what it should be.
    """
    manifest = _read_manifest(folder)
    tiers = [_of_tier(name, tier, manifest) for name, tier in _tiers(manifest, folder).items()]
    preferred = (_REFERENCE, manifest.get("default_tier"))
    tiers.sort(key=lambda tier: preferred.index(tier.name) if tier.name in preferred else 2)
    reference, *others = tiers
    return [reference, *controls(reference, others), *others]


def controls(reference: Configuration, others: list[Configuration]) -> list[Configuration]:
    """Returns the reference with the Free tier's step count; nothing where they agree."""
    fast = next((tier for tier in others if tier.name == _FAST), reference)
    if fast.step_count == reference.step_count:
        return []
    name = f"{reference.name} at {fast.step_count}"
    return [
        Configuration(
            name,
            fast.step_count,
            reference.guidance_scale,
            reference.scheduler,
            reference.weights,
        )
    ]


def parse_configuration(text: str) -> Configuration:
    """Returns what `NAME=steps[,guidance[,scheduler[,weights]]]` says.

    Raises:
        BadConfiguration: it says something else.
    """
    name, _, values = text.partition("=")
    fields = values.split(",")
    try:
        if not name or len(fields) > _FIELD_COUNT:
            raise ValueError(text)
        steps, guidance, scheduler, weights = fields + [""] * (_FIELD_COUNT - len(fields))
        tier = Tier(
            step_count=int(steps),
            guidance_scale=float(guidance or DEFAULT_GUIDANCE_SCALE),
            scheduler=scheduler or None,
            weights=weights or BASE,
        )
    except ValueError as exc:
        raise BadConfiguration(
            f"--config {text!r}: write NAME=steps,guidance,scheduler,weights, "
            "for example teacher15=15,5,ddim,base; the last three may be left out"
        ) from exc
    return _of_tier(name, tier, {})


def _read_manifest(folder: Path) -> Mapping[str, Any]:
    file = folder / MANIFEST_NAME
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as exc:
        raise ModelNotReady(f"{file} is not JSON: {exc}") from exc


def _tiers(manifest: Mapping[str, Any], folder: Path) -> dict[str, Tier]:
    try:
        stated = {name: Tier.model_validate(tier) for name, tier in manifest["tiers"].items()}
    except KeyError:
        stated = {}
    except (AttributeError, ValidationError) as exc:
        raise ModelNotReady(f"{folder / MANIFEST_NAME}: tiers: {exc}") from exc
    default = Tier(step_count=DEFAULT_STEP_COUNT, guidance_scale=DEFAULT_GUIDANCE_SCALE)
    return stated or {_REFERENCE: default}


def _of_tier(name: str, tier: Tier, manifest: Mapping[str, Any]) -> Configuration:
    scheduler = tier.scheduler or manifest.get("default_scheduler")
    return Configuration(name, tier.step_count, tier.guidance_scale, scheduler, tier.weights)
