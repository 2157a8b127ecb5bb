"""A line in which tiers get their shares, tenants take turns, and the most urgent goes first.

Start-time fair queueing (Goyal, Vin and Cheng 1996): each tier has a clock that runs by the cost
of what it got, divided by its weight, and the tier whose clock is furthest behind goes next. The
tenants of a tier have such clocks too, all of one weight. Whoever comes after a pause starts at
the time of those present: nobody saves up a share to flood with later, and while others are absent
their shares go to those who are there.
"""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

_DEFAULT_WEIGHT = 1.0
# Clocks of the absent are swept when there are this many more than names present.
_MOST_ABSENT = 64


class _Turns:
    """Virtual clocks of some names."""

    def __init__(self) -> None:
        self._now = 0.0
        self._clocks: dict[str, float] = {}

    def join(self, name: str) -> None:
        """Lets a name that was not waiting wait from now on."""
        self._clocks[name] = max(self._clocks.get(name, 0.0), self._now)

    def charge(self, name: str, cost: float) -> None:
        """Serves a name."""
        self._now = max(self._now, self._clocks[name])
        self._clocks[name] += cost

    def order(self, name: str) -> tuple[float, str]:
        """Returns what sorts names by whose turn it is."""
        return self._clocks[name], name

    def sweep(self, present: Mapping[str, object]) -> None:
        """Forgets the absent who would start at the time of those present anyway."""
        if len(self._clocks) > len(present) + _MOST_ABSENT:
            self._clocks = {
                name: clock
                for name, clock in self._clocks.items()
                if name in present or clock > self._now
            }


@dataclass(eq=False, slots=True)
class _Tier(Generic[T]):
    turns: _Turns = field(default_factory=_Turns)
    # By tenant: (urgency, arrival, item); equal urgencies go in the order of arrival.
    waiting: dict[str, list[tuple[float, int, T]]] = field(default_factory=dict)

    def next_tenant(self) -> str:
        return min(self.waiting, key=self.turns.order)


class FairLine(Generic[T]):
    """Items that wait for one resource.

    Args:
        weights: share of each tier against the others; a tier that is not named has 1.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._turns = _Turns()
        self._tiers: dict[str, _Tier[T]] = {}
        self._removed: set[T] = set()
        self._arrivals = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, item: T, *, tier: str, tenant: str, urgency: float) -> None:
        """Adds an item; in its tenant's part the least `urgency` goes first."""
        line = self._tiers.setdefault(tier, _Tier())
        if not line.waiting:
            self._turns.join(tier)
        if tenant not in line.waiting:
            line.turns.join(tenant)
        self._arrivals += 1
        self._count += 1
        entry = (urgency, self._arrivals, item)
        heapq.heappush(line.waiting.setdefault(tenant, []), entry)

    def remove(self, item: T) -> None:
        """Takes out an item that is in the line."""
        # It goes when it comes to the front.
        self._removed.add(item)
        self._count -= 1

    def heads(self) -> Iterator[tuple[str, T]]:
        """Yields the tiers that wait and the item of each that goes first, fairest first."""
        for line in self._tiers.values():
            self._prune(line)
        waiting = [name for name, line in self._tiers.items() if line.waiting]
        for name in sorted(waiting, key=self._turns.order):
            line = self._tiers[name]
            yield name, line.waiting[line.next_tenant()][0][2]

    def pop(self, tier: str, cost: float) -> T:
        """Takes out the first item of a tier, as `heads` has just named it, and charges for it."""
        line = self._tiers[tier]
        tenant = line.next_tenant()
        item = heapq.heappop(line.waiting[tenant])[2]
        self._count -= 1
        self._turns.charge(tier, cost / self._weights.get(tier, _DEFAULT_WEIGHT))
        line.turns.charge(tenant, cost)
        if not line.waiting[tenant]:
            del line.waiting[tenant]
            line.turns.sweep(line.waiting)
        return item

    def _prune(self, line: _Tier[T]) -> None:
        if not self._removed:
            return
        for tenant, waiting in list(line.waiting.items()):
            while waiting and waiting[0][2] in self._removed:
                self._removed.discard(heapq.heappop(waiting)[2])
            if not waiting:
                del line.waiting[tenant]
