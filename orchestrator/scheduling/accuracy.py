"""How far off estimates are taken to be, so that few of those who are let in are late.

Whoever is late cost a device time that others could have used, and whoever was refused in vain left
it idle. So the factor is not what estimates were off by on the average: each request that ran out
of time raises it by much, each that took less than it was told lowers it by little, and in balance
about one in twelve of those let in is late, however the times are spread.

What comes after a picture's steps is estimated apart: the steps have to leave time for it.
"""

_RAISED, _LOWERED = 1.2, 0.985
_LEAST, _MOST = 0.25, 3.0
# Refusals in a row, with nobody inside who could teach, after which one is let in all the same.
_MOST_REFUSALS = 4
# In balance about one in four pictures takes longer after its steps than the slack says.
_WIDENED, _NARROWED = 1.05, 0.985
_LEAST_SLACK, _MOST_SLACK = 1.0, 6.0


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


class FinishSlack:
    """How long a picture takes after its last step, as a multiple of what that costs.

    It waits for its lane, crosses between processes and shares the device with others' steps, so it
    takes longer than it costs, on a small model by more.

    Attributes:
        factor: from 1 to 6.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def observe(self, cost_s: float, took_s: float, *, finished: bool) -> None:
        """Learns from a picture that took so long after its steps, or was late after them."""
        if not finished or took_s > self.factor * cost_s:
            self.factor = min(self.factor * _WIDENED, _MOST_SLACK)
        else:
            self.factor = max(self.factor * _NARROWED, _LEAST_SLACK)
