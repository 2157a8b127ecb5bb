"""What the kept traces may take; apart from the store, which needs OTLP's messages."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TraceLimits:
    """Most traces, and most bytes of them all."""

    max_count: int
    max_bytes: int
