"""Enters a student into the model folder's `sangsang.json`: its weights, and a tier."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.models.folder import MANIFEST_NAME

FULL_SUFFIX = "-full"


@dataclass(frozen=True, slots=True)
class Offer:
    """What is offered.

    Attributes:
        name: of the student's weights; the full student beside an adapter gets `-full` behind it.
        adapter: folder of the low-rank student in the model folder, or None.
        unet: folder of the full student in the model folder, or None.
        step_count: steps it was made for.
        scheduler: the sampler that it was taught with; another would step elsewhere than it was
            shown.
        tier: `free` or `pro`, which takes the student from now on; None leaves the tiers alone.
    """

    name: str
    adapter: str | None
    unet: str | None
    step_count: int
    scheduler: str
    tier: str | None


def enter(model: Path, offer: Offer) -> None:
    """Writes the offer into the manifest, which is made if there is none."""
    path = model / MANIFEST_NAME
    manifest: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    weights = manifest.setdefault("weights", {})
    if offer.adapter is not None:
        weights[offer.name] = {"adapter": offer.adapter}
    if offer.unet is not None:
        full = offer.name if offer.adapter is None else offer.name + FULL_SUFFIX
        weights[full] = {"unet": offer.unet}
    if offer.tier is not None:
        tiers = manifest.setdefault("tiers", {})
        tiers[offer.tier] = {
            # What else the tier says, its limits, stays.
            **tiers.get(offer.tier, {}),
            "step_count": offer.step_count,
            "guidance_scale": 1.0,
            "scheduler": offer.scheduler,
            "weights": offer.name,
        }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
    partial.rename(path)
