"""Deficits: who has had how much of the compute, and who is owed the next of it."""

from collections.abc import Callable, Collection, Hashable, Iterable, Set
from typing import Generic, TypeVar

N = TypeVar("N", bound=Hashable)


class FairShares(Generic[N]):
    """What each of some names has had, divided by its weight: the least is owed most.

    A newcomer starts where the least is. Who needs less than its share saves up the rest, up to an
    allowance and no further.

    Args:
        kept: names that save up while they are absent; others are forgotten.
    """

    def __init__(self, kept: Collection[N] = ()) -> None:
        self._kept = frozenset(kept)
        self._levels: dict[N, float] = dict.fromkeys(kept, 0.0)
        self._present: frozenset[N] = frozenset()
        self._least = 0.0

    def admit(self, names: Iterable[N]) -> None:
        """Lets newcomers in; forgets who is not among these, unless it is kept."""
        self._present = frozenset(names)
        stay = self._present | self._kept
        self._levels = {name: level for name, level in self._levels.items() if name in stay}
        known = [level for name, level in self._levels.items() if name in self._present]
        self._least = min(known, default=0.0)
        for name in self._present:
            self._levels.setdefault(name, self._least)

    def level(self, name: N) -> float:
        """Returns what one has had beyond the least that one of the present has had."""
        return self._levels[name] - self._least

    def charge(self, name: N, amount: float) -> None:
        """Adds what one got, divided by its weight."""
        self._levels[name] += amount

    def settle(self, waiting: Set[N], allowance: Callable[[N], float]) -> None:
        """Limits what those may save up who got all they asked for.

        Args:
            waiting: those who did not.
            allowance: how far one may stay behind, divided by its weight.
        """
        if waiting:
            floor = min(self._levels[name] for name in waiting)
        else:
            floor = max(self._levels[name] for name in self._present)
        for name, level in self._levels.items():
            if name not in waiting:
                level = max(level, floor - allowance(name))
            # Counted from the floor, or the sums would lose their last digits in a long life.
            self._levels[name] = level - floor
