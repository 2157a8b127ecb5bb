"""Settings of the text encoding service."""

from pydantic import Field

from ..runtime.settings import MEBIBYTE, ServiceSettings

DEFAULT_PORT = 50051


class TextEncodingSettings(ServiceSettings):
    """Settings of the text encoding service, read from `SANGSANG_...` variables."""

    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535)
    """Port to listen on; 0 takes any free one."""

    embedding_cache_entries: int = Field(default=1024, ge=0)
    """Texts whose embeddings are kept; 0 keeps none."""

    embedding_cache_bytes: int = Field(default=256 * MEBIBYTE, ge=0)
    """Bytes that the kept embeddings take at most."""
