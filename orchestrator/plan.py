"""A checked request: every default filled in, every limit held."""

from dataclasses import dataclass
from typing import Literal, get_args

TierName = Literal["free", "pro"]
TIERS: tuple[TierName, ...] = get_args(TierName)

# The tenant of a call that names none.
ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """What to do for one request.

    Attributes:
        request_id: a UUID, the caller's or ours.
        seeds: one for each picture, in order.
        initial_image: an encoded picture to start from; empty for text to image.
        strength: share of the schedule to run, in (0, 1]; 1 for text to image.
        quality: of a lossy format, 1 to 100.
        preview_interval_step_count: steps between two previews; 0 for none.
        min_progress_interval_ms: least time between progress events without a preview.
        tenant: whom it is for.
        fingerprint: of the spec as the caller gave it, the same for the same spec.
    """

    request_id: str
    model_id: str
    prompt: str
    negative_prompt: str
    width_px: int
    height_px: int
    tier: TierName
    scheduler: str
    weights: str
    step_count: int
    guidance_scale: float
    seeds: tuple[int, ...]
    initial_image: bytes
    strength: float
    mime_type: str
    quality: int
    embed_parameters: bool
    preview_interval_step_count: int
    min_progress_interval_ms: int = 0
    tenant: str = ANONYMOUS
    fingerprint: str = ""

    @property
    def guided(self) -> bool:
        """Whether the negative prompt plays a part: two rows in each step, not one."""
        return self.guidance_scale > 1.0

    def parameters(self, seed: int) -> tuple[tuple[str, str], ...]:
        """Returns the generation parameters of one picture, for its metadata."""
        if not self.embed_parameters:
            return ()
        pairs = [
            ("prompt", self.prompt),
            ("negative_prompt", self.negative_prompt),
            ("seed", str(seed)),
            ("step_count", str(self.step_count)),
            ("guidance_scale", f"{self.guidance_scale:g}"),
            ("scheduler", self.scheduler),
            ("model_id", self.model_id),
            ("weights", self.weights),
            ("width_px", str(self.width_px)),
            ("height_px", str(self.height_px)),
        ]
        if self.initial_image:
            pairs.append(("strength", f"{self.strength:g}"))
        return tuple((name, value) for name, value in pairs if value)
