"""How far off estimates were, so that the next ones are better.

As TCP does for its timeouts (Jacobson 1988, RFC 6298): an average of what was seen and an average
of how far from it; both together are what most requests stay below. Ratios of what a request took
to what it was told, so that long and short ones teach each other.
"""

_FOLLOW = 0.1
_LEAST, _MOST = 0.25, 3.0


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

    def observe(self, estimate_s: float, took_s: float) -> None:
        """Learns from a request that took so long; one that ran out of time took longer yet."""
        if estimate_s <= 0:
            return
        ratio = min(took_s / estimate_s, 2 * _MOST)
        self._deviation += _FOLLOW * (abs(ratio - self._ratio) - self._deviation)
        self._ratio += _FOLLOW * (ratio - self._ratio)
