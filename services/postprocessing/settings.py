"""Settings of the postprocessing service."""

from pydantic import Field

from ..runtime.settings import ServiceSettings

DEFAULT_PORT = 50054


class PostprocessingSettings(ServiceSettings):
    """Settings of the postprocessing service, read from `SANGSANG_...` variables."""

    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535)
    """Port to listen on; 0 takes any free one."""

    max_side_px: int = Field(default=2048, ge=8)
    """Largest side of a picture. The orchestrator holds each model's own limit."""

    encoding_threads: int = Field(default=2, ge=1)
    """Pictures encoded at once."""

    png_compress_level: int = Field(default=1, ge=0, le=9)
    """Effort of PNG's compression; more takes longer than it saves."""

    mark_generated: bool = True
    """Whether every picture says, for machines, that it was generated. Laws may ask for it."""
