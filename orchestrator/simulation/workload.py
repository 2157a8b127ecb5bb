"""What is asked for: requests with their times, from whoever made them."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        arrival_s: when it comes; in a closed loop, when it would come at the earliest.
        row_count: rows of each step for one picture: 2 with guidance.
        size_px: height and width; None for the model's own.
        deadline_s: seconds after its arrival; None for none.
        cancel_s: seconds after its arrival when its caller leaves; None for never.
    """

    request_id: str
    arrival_s: float
    tier: str = "free"
    tenant: str = "anonymous"
    step_count: int = 3
    row_count: int = 1
    picture_count: int = 1
    size_px: tuple[int, int] | None = None
    deadline_s: float | None = None
    cancel_s: float | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in the order of their arrival.

    Attributes:
        concurrency: callers of a closed loop, each with one request at a time; None for an open
            loop, in which nobody waits for anybody.
    """

    requests: Sequence[Request]
    concurrency: int | None = None
