"""Settings of the preprocessing service."""

from pydantic import Field

from ..runtime.settings import MEBIBYTE, ServiceSettings

DEFAULT_PORT = 50052


class PreprocessingSettings(ServiceSettings):
    """Settings of the preprocessing service, read from `SANGSANG_...` variables."""

    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535)
    """Port to listen on; 0 takes any free one."""

    max_side_px: int = Field(default=2048, ge=8)
    """Largest side of a picture to make. The orchestrator holds each model's own limit."""

    max_picture_bytes: int = Field(default=12 * MEBIBYTE, ge=1)
    """Largest initial image, encoded. It has to fit into `max_message_bytes`, too."""

    max_picture_pixels: int = Field(default=16_000_000, ge=1)
    """Most pixels of an initial image, read from its header before it is decoded."""

    picture_threads: int = Field(default=2, ge=1)
    """Pictures decoded at once; each takes up to 12 bytes a pixel for a moment."""
