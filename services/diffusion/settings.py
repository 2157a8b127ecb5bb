"""Settings of the diffusion service."""

from typing import Annotated

from pydantic import Field

from ..runtime.row_scheduling import DEFAULT_TIER_WEIGHTS
from ..runtime.settings import ServiceSettings

DEFAULT_PORT = 50053


class DiffusionSettings(ServiceSettings):
    """Settings of the diffusion service, read from `SANGSANG_...` variables."""

    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535)
    """Port to listen on; 0 takes any free one."""

    batch_row_limit: int = Field(default=8, ge=2)
    """Most rows of one UNet evaluation, a guided picture takes two; a profile may say less."""

    batch_min_gain: float = Field(default=0.1, ge=0)
    """How much cheaper more rows must make a row, where a model's profile tells; 0.1 is 10 %."""

    tier_weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default=dict(DEFAULT_TIER_WEIGHTS), min_length=1
    )
    """Shares of the UNet's time by tier, as JSON; a tier that is not named has 1."""

    waiting_row_limit: int = Field(default=256, ge=2)
    """Most rows being denoised at once, each model for itself; a picture beyond is refused."""

    max_side_px: int = Field(default=2048, ge=8)
    """Largest side of a picture. The orchestrator holds each model's own limit."""
