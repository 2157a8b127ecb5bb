"""Settings of the diffusion service."""

from pydantic import Field

from ..runtime.settings import ServiceSettings

DEFAULT_PORT = 50053


class DiffusionSettings(ServiceSettings):
    """Settings of the diffusion service, read from `SANGSANG_...` variables."""

    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535)
    """Port to listen on; 0 takes any free one."""

    batch_row_limit: int = Field(default=8, ge=2)
    """Most rows of one UNet evaluation. A guided picture takes two."""

    waiting_row_limit: int = Field(default=256, ge=2)
    """Most rows being denoised at once, each model for itself; a picture beyond is refused."""

    max_side_px: int = Field(default=2048, ge=8)
    """Largest side of a picture. The orchestrator holds each model's own limit."""
