"""The time that a call has left, carried from hop to hop.

gRPC enforces a deadline at each end of one call but does not pass it on: the server interceptor
notes it here, and `calls.py` gives what is left of it to every further call.
"""

import time
from contextvars import ContextVar

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def set_time_left(seconds: float | None) -> None:
    """Notes that the current call has this many seconds left; None for no deadline."""
    _deadline.set(None if seconds is None else time.monotonic() + seconds)


def time_left() -> float | None:
    """Returns the seconds that the current call has left; None for no deadline."""
    deadline = _deadline.get()
    return None if deadline is None else deadline - time.monotonic()
