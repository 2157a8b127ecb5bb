"""Settings of the orchestrator."""

from pydantic import Field

from ..services.runtime.picture_checks import PictureLimits
from ..services.runtime.settings import ProcessSettings

DEFAULT_PORT = 50050


class OrchestratorSettings(ProcessSettings):
    """Settings of the orchestrator, read from `SANGSANG_...` variables."""

    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535)
    """Port to listen on; 0 takes any free one."""

    text_encoding_address: str = "127.0.0.1:50051"
    """`host:port` of the text encoding service."""

    preprocessing_address: str = "127.0.0.1:50052"
    """`host:port` of the preprocessing service."""

    diffusion_address: str = "127.0.0.1:50053"
    """`host:port` of the diffusion service."""

    postprocessing_address: str = "127.0.0.1:50054"
    """`host:port` of the postprocessing service."""

    max_running_requests: int = Field(default=32, ge=1)
    """Requests whose pictures are in the stages at one moment."""

    max_queued_requests: int = Field(default=256, ge=0)
    """Requests that may wait; one more is refused with RESOURCE_EXHAUSTED."""

    max_picture_pixels: int = Field(default=PictureLimits().max_pixels, ge=1)
    """Most pixels of an initial image; the preprocessing service reads the same variable."""

    stage_start_timeout_s: float = Field(default=120.0, gt=0)
    """Seconds to wait for the stages to serve before giving up."""
