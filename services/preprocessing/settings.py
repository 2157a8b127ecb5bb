"""Settings of the preprocessing service."""

from pydantic import Field

from ..runtime.picture_checks import PictureLimits
from ..runtime.settings import ServiceSettings

DEFAULT_PORT = 50052


class PreprocessingSettings(ServiceSettings):
    """Settings of the preprocessing service, read from `SANGSANG_...` variables."""

    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535)
    """Port to listen on; 0 takes any free one."""

    max_side_px: int = Field(default=2048, ge=8)
    """Largest side of a picture to make. The orchestrator holds each model's own limit."""

    max_picture_bytes: int = Field(default=PictureLimits().max_bytes, ge=1)
    """Largest initial image, encoded. It has to fit into `max_message_bytes`, too."""

    max_picture_pixels: int = Field(default=PictureLimits().max_pixels, ge=1)
    """Most pixels of an initial image; the orchestrator reads the same variable."""

    picture_threads: int = Field(default=2, ge=1)
    """Pictures decoded at once; each takes up to 12 bytes a pixel for a moment."""
