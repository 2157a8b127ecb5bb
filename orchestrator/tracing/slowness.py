"""Which requests are slow: compared with others of their kind, not by a number of seconds."""

from collections import deque
from collections.abc import Hashable

# The slowest twentieth of the last so many; with fewer than the least number known nobody is slow.
WINDOW = 256
LEAST_KNOWN = 20
SLOW_SHARE = 0.05
# Kinds that are told apart: models and tiers, of which there are few.
MOST_KINDS = 256


class Slowness:
    """Knows how long the last requests of each kind took."""

    def __init__(self) -> None:
        self._known: dict[Hashable, deque[int]] = {}

    def note(self, kind: Hashable, duration_ns: int) -> bool:
        """Notes a request, and returns whether it is slow beside those before it."""
        known = self._known.get(kind)
        if known is None:
            if len(self._known) >= MOST_KINDS:
                return False
            known = self._known[kind] = deque(maxlen=WINDOW)
        slow = len(known) >= LEAST_KNOWN and self._is_slow(known, duration_ns)
        known.append(duration_ns)
        return slow

    @staticmethod
    def _is_slow(known: deque[int], duration_ns: int) -> bool:
        slower = sum(other >= duration_ns for other in known)
        return slower < SLOW_SHARE * len(known)
