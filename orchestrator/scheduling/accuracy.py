"""How far off estimates were, so that the next ones are better.

As TCP does for its timeouts (Jacobson 1988, RFC 6298): an average of what was seen and an average
of how far from it; both together are what most requests stay below. Ratios of what a request took
to what it was told, so that long and short ones teach each other.
"""

_FOLLOW = 0.1
_LEAST, _MOST = 0.25, 3.0
# How much longer a request that ran out of time is thought to have needed.
_LATE = 2.5


class Accuracy:
    """What estimates of one kind are to be multiplied by."""

    def __init__(self) -> None:
        self._ratio = 1.0
        self._deviation = 0.0

    @property
    def factor(self) -> float:
        """From a quarter to 3.

        Below 1 too: a tier that uses less than its share seldom waits for what others have queued.
        """
        return min(max(self._ratio + self._deviation, _LEAST), _MOST)

    def observe(self, estimate_s: float, took_s: float, *, finished: bool = True) -> None:
        """Learns from a request that took so long, or that was not finished after so long."""
        if estimate_s <= 0:
            return
        # Its end was not seen: taken for its time alone, it would say that estimates were right.
        took_s *= 1.0 if finished else _LATE
        ratio = min(took_s / estimate_s, 2 * _MOST)
        self._deviation += _FOLLOW * (abs(ratio - self._ratio) - self._deviation)
        self._ratio += _FOLLOW * (ratio - self._ratio)
