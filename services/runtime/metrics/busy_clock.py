"""How long something was busy, with what it does now counted already.

A counter that grew only when work ends would stand still for as long as a lane is held, which is
hours on a busy mesh, and then jump.
"""

import threading


class BusyClock:
    """Adds up the seconds of work, of several workers if several work at once. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done_s = 0.0
        self._running_count = 0
        # The sum of when the running ones began: one number, however many there are.
        self._started_s = 0.0
        self._told_s = 0.0

    def begin(self, now_s: float) -> None:
        """Notes that work begins."""
        with self._lock:
            self._running_count += 1
            self._started_s += now_s

    def end(self, started_s: float, now_s: float) -> None:
        """Notes that work that began at `started_s` has ended."""
        with self._lock:
            self._running_count -= 1
            # Sums of large times would keep a rest.
            self._started_s = self._started_s - started_s if self._running_count else 0.0
            self._done_s += now_s - started_s

    def seconds(self, now_s: float) -> float:
        """Returns the seconds of work so far; never less than what was returned before."""
        with self._lock:
            sum_s = self._done_s + self._running_count * now_s - self._started_s
            # A fall by a rounding would be a restart to Prometheus, and all would count again.
            self._told_s = max(self._told_s, sum_s)
            return self._told_s
