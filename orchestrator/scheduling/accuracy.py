"""How far off estimates are taken to be, so that few of those who are let in are late.

Whoever is late cost a device time that others could have used, and whoever was refused in vain left
it idle. So the factor is not what estimates were off by on the average: each request that ran out
of time raises it by much, each that took less than it was told lowers it by little, and in balance
about one in twelve of those let in is late, however the times are spread.
"""

_RAISED, _LOWERED = 1.2, 0.985
_LEAST, _MOST = 0.25, 3.0
# Refusals in a row, with nobody inside who could teach, after which one is let in all the same.
_MOST_REFUSALS = 4


class Accuracy:
    """What estimates of one kind are to be multiplied by.

    Attributes:
        factor: from a quarter to 3. Below 1 too: a tier that uses less than its share seldom waits
            for what others have queued.
    """

    def __init__(self) -> None:
        self.factor = 1.0
        self._inside_count = 0
        self._refusal_count = 0

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
        if not finished:
            self.factor = min(self.factor * _RAISED, _MOST)
        elif took_s < self.factor * estimate_s:
            self.factor = max(self.factor * _LOWERED, _LEAST)
