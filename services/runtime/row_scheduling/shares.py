"""Deficits: who has had how much of the compute, and who is owed the next of it."""

from collections.abc import Hashable, Iterable, Set
from typing import Generic, TypeVar

N = TypeVar("N", bound=Hashable)


class FairShares(Generic[N]):
    """What each of some names has had, divided by its weight: the least is owed most.

    Only those that compete are remembered. A newcomer starts where the least is, so that absence
    earns nothing; and who needs less than its share does not save up the rest, but for a stated
    allowance.
    """

    def __init__(self) -> None:
        self._levels: dict[N, float] = {}
        self._least = 0.0

    def admit(self, names: Iterable[N]) -> None:
        """Forgets who is not among these and lets newcomers in."""
        present = dict.fromkeys(names)
        self._levels = {name: self._levels[name] for name in self._levels if name in present}
        start = min(self._levels.values(), default=0.0)
        for name in present:
            self._levels.setdefault(name, start)
        self._least = start

    def level(self, name: N) -> float:
        """Returns what one has had beyond the least that one had at the last `admit`."""
        return self._levels[name] - self._least

    def charge(self, name: N, amount: float) -> None:
        """Adds what one got, divided by its weight."""
        self._levels[name] += amount

    def settle(self, waiting: Set[N], allowance: float) -> None:
        """Limits what those can save up who got all they asked for.

        Args:
            waiting: those who did not.
            allowance: how far the others may stay behind the least of those.
        """
        if not waiting:
            # Everybody got everything, so nobody is owed anything.
            self._levels.clear()
            return
        floor = min(self._levels[name] for name in waiting)
        for name, level in self._levels.items():
            if name not in waiting:
                level = max(level, floor - allowance)
            # Counted from the floor, or the sums would lose their last digits in a long life.
            self._levels[name] = level - floor
