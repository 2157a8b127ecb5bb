"""How far off estimates were, so that the next ones are better.

As TCP does for its timeouts (Jacobson 1988, RFC 6298): an average of what was seen and an average
of how far from it; both together are what most requests stay below. Ratios of what a request took
to what it was told, so that long and short ones teach each other.
"""

_FOLLOW = 0.1
_LEAST, _MOST = 0.25, 3.0
# Refusals in a row, with nobody inside who could teach, after which one is let in all the same.
_MOST_REFUSALS = 4
# How much longer a request that ran out of time is thought to have needed.
_LATE = 2.5


class Accuracy:
    """What estimates of one kind are to be multiplied by."""

    def __init__(self) -> None:
        self._ratio = 1.0
        self._deviation = 0.0
        self._inside_count = 0
        self._refusal_count = 0

    @property
    def factor(self) -> float:
        """From a quarter to 3.

        Below 1 too: a tier that uses less than its share seldom waits for what others have queued.
        """
        return min(max(self._ratio + self._deviation, _LEAST), _MOST)

    def enter(self) -> None:
        """Notes that a request has come in."""
        self._inside_count += 1
        self._refusal_count = 0

    def leave(self) -> None:
        """Notes that it is out again."""
        self._inside_count -= 1

    def doubts(self) -> bool:
        """Returns whether a request that its estimate would keep out is to be let in to see.

        Whoever is refused corrects no estimate. So one that is too high would refuse all, for ever,
        if nobody were let in against it.
        """
        self._refusal_count += 1
        return self._inside_count == 0 and self._refusal_count > _MOST_REFUSALS

    def observe(self, estimate_s: float, took_s: float, *, finished: bool = True) -> None:
        """Learns from a request that took so long, or that was not finished after so long."""
        if estimate_s <= 0:
            return
        # Its end was not seen: taken for its time alone, it would say that estimates were right.
        took_s *= 1.0 if finished else _LATE
        ratio = min(took_s / estimate_s, 2 * _MOST)
        self._deviation += _FOLLOW * (abs(ratio - self._ratio) - self._deviation)
        self._ratio += _FOLLOW * (ratio - self._ratio)
