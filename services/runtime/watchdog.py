"""Finds engine calls that hang: those that run for many times as long as their kind usually does.

Time is counted tick by tick, and a tick counts for little more than its interval. So a process that
was stopped and goes on, or a machine that slept, does not take that time for a hang.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

# Weight of the newest call in the mean of durations.
_NEWEST = 0.2
_MAX_KINDS = 1000
# Ticks come late on a busy machine; what is more than this many intervals was a stop.
_MOST_INTERVALS = 2.0


@dataclass(frozen=True, slots=True)
class HangLimits:
    """How long a call may run.

    Attributes:
        factor: times the usual duration of its kind; 0 for any time.
        least_s: however short that is.
        unknown_s: of the first call of a kind.
    """

    factor: float = 30.0
    least_s: float = 30.0
    unknown_s: float = 600.0

    @property
    def interval_s(self) -> float:
        """How often to look."""
        return min(0.5, self.least_s / 4, self.unknown_s / 4)


@dataclass(frozen=True, slots=True)
class Hang:
    """A call that runs for too long.

    Attributes:
        age_s: for how long it has run.
        limit_s: for how long it may.
    """

    age_s: float
    limit_s: float


@dataclass(eq=False, slots=True)
class WatchedCall:
    """A call that runs now."""

    kind: Hashable
    started_s: float
    age_s: float = 0.0


class Watchdog:
    """Watches the calls of one thread, and learns how long each kind takes.

    Args:
        limits: how long they may run.
        clock: seconds.
    """

    def __init__(self, limits: HangLimits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._running: WatchedCall | None = None
        self._last_tick_s = clock()
        self._usual_s: OrderedDict[Hashable, float] = OrderedDict()

    def begin(self, kind: Hashable) -> None:
        """Notes that a call begins; one at a time."""
        self._running = WatchedCall(kind, self._clock())

    def end(self, *, done: bool) -> None:
        """Notes that it has ended; one that was done tells how long its kind takes."""
        call, self._running = self._running, None
        if call is None or not done:
            return
        seconds = self._clock() - call.started_s
        usual_s = self._usual_s.pop(call.kind, seconds)
        self._usual_s[call.kind] = usual_s + _NEWEST * (seconds - usual_s)
        if len(self._usual_s) > _MAX_KINDS:
            self._usual_s.popitem(last=False)

    @property
    def age_s(self) -> float:
        """For how long the call that runs now has run, as far as ticks tell; 0 if none does."""
        call = self._running
        return 0.0 if call is None else call.age_s

    def tick(self) -> Hang | None:
        """Returns what is wrong with the call that runs; None for nothing. Call it regularly."""
        now_s, last_s = self._clock(), self._last_tick_s
        self._last_tick_s = now_s
        call = self._running
        if call is None or self._limits.factor <= 0:
            return None
        passed_s = now_s - max(last_s, call.started_s)
        call.age_s += min(passed_s, _MOST_INTERVALS * self._limits.interval_s)
        limit_s = self._limit_s(call.kind)
        return Hang(call.age_s, limit_s) if call.age_s > limit_s else None

    def _limit_s(self, kind: Hashable) -> float:
        usual_s = self._usual_s.get(kind)
        if usual_s is None:
            return self._limits.unknown_s
        return max(self._limits.least_s, self._limits.factor * usual_s)
