"""What is compared: each tier of the manifest, a control, and whatever the caller adds.

The control has the reference tier's weights and the Free tier's step count. It shows what the step
count alone costs; how far the Free tier lies above it is what distillation is worth.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...runtime.engines.precisions import Precision
from ...runtime.models.manifest import (
    BASE_WEIGHTS,
    DEFAULT_GUIDANCE_SCALE,
    Manifest,
    Tier,
)

EXACT = "f32"
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
        precision: `f32` draws with torch; another one with the graph of a GPU's engine.
    """

    name: str
    step_count: int
    guidance_scale: float
    scheduler: str | None = None
    weights: str = BASE_WEIGHTS
    precision: str = EXACT

    def __str__(self) -> str:
        guidance = f"guidance {self.guidance_scale:g}" if self.guidance_scale > 1 else "unguided"
        precision = "" if self.precision == EXACT else f", {self.precision}"
        return f"{self.step_count} steps, {guidance}{precision}"


def read_configurations(manifest: Manifest) -> list[Configuration]:
    """Returns a model's tiers and the control, the reference first; equal tiers make one row."""
    tiers = [
        _of_tier(name, tier, tier.scheduler or manifest.default_scheduler)
        for name, tier in manifest.tiers.items()
    ]
    preferred = (_REFERENCE, manifest.default_tier)
    tiers.sort(key=lambda tier: preferred.index(tier.name) if tier.name in preferred else 2)
    different = {replace(tier, name=""): tier for tier in reversed(tiers)}
    reference, *others = reversed(different.values())
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


def in_precisions(manifest: Manifest, precisions: Sequence[Precision]) -> list[Configuration]:
    """Returns a model's tiers in each precision of a GPU's engines."""
    tiers = [one for one in read_configurations(manifest) if one.name in manifest.tiers]
    return [
        replace(tier, name=f"{tier.name}, {precision}", precision=precision)
        for precision in precisions
        for tier in tiers
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
            weights=weights or BASE_WEIGHTS,
        )
    except ValueError as exc:
        raise BadConfiguration(
            f"--config {text!r}: write NAME=steps,guidance,scheduler,weights, "
            "for example teacher15=15,5,ddim,base; the last three may be left out"
        ) from exc
    return _of_tier(name, tier, tier.scheduler)


def _of_tier(name: str, tier: Tier, scheduler: str | None) -> Configuration:
    return Configuration(name, tier.step_count, tier.guidance_scale, scheduler, tier.weights)
