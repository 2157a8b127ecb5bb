"""The time that a call has left, carried from hop to hop.

gRPC enforces a deadline at each end of one call but does not pass it on: the server interceptor
notes it here, and `calls.py` gives what is left of it to every further call.
"""

import time
from contextvars import ContextVar

# The most of a call's time that may be kept free for what follows its steps, in milliseconds.
MAX_FINISH_RESERVE_MS = 60_000
# Both ends watch the deadline, and the caller's end is the first to give up, by what its call was
# on the way.
_SLACK_S = 0.05


class Deadline:
    """When work is of no use any more. It moves if somebody joins who can wait for longer.

    Attributes:
        at_s: on `time.monotonic`; None for never.
    """

    __slots__ = ("at_s",)

    def __init__(self, at_s: float | None = None) -> None:
        self.at_s = at_s

    @property
    def time_left_s(self) -> float | None:
        """Seconds until then, negative afterwards; None for never."""
        return None if self.at_s is None else self.at_s - time.monotonic()

    def extend(self, other: "Deadline") -> None:
        """Moves this one to the other if that is later."""
        if self.at_s is not None and (other.at_s is None or other.at_s > self.at_s):
            self.at_s = other.at_s


_deadline: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


def current_deadline() -> Deadline:
    """Returns the deadline of the current call; one that never comes if it has none."""
    return _deadline.get() or Deadline()


def set_deadline(deadline: Deadline) -> None:
    """Makes this the deadline of all further work in this context."""
    _deadline.set(deadline)


def set_time_left(seconds: float | None) -> None:
    """Notes that the current call has this many seconds left; None for no deadline."""
    set_deadline(Deadline(None if seconds is None else time.monotonic() + seconds))


def time_left() -> float | None:
    """Returns the seconds that the current call has left; None for no deadline."""
    return current_deadline().time_left_s


def has_run_out(time_left_s: float | None) -> bool:
    """Returns whether work that is given up with so many seconds left ran out of time."""
    return time_left_s is not None and time_left_s <= _SLACK_S
