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
# Clocks of the absent are swept when there are so many more than after the last sweep, and twice.
_MOST_ABSENT = 64


class _Turns:
    """Virtual clocks of some names."""

    def __init__(self) -> None:
        self._now = 0.0
        self._clocks: dict[str, float] = {}
        self._swept_at = _MOST_ABSENT

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
        if len(self._clocks) > self._swept_at:
            self._clocks = {
                name: clock
                for name, clock in self._clocks.items()
                if name in present or clock > self._now
            }
            # Only once they have doubled again, or a sweep that finds little would come each time.
            self._swept_at = 2 * len(self._clocks) + _MOST_ABSENT


@dataclass(eq=False, slots=True)
class _Tier(Generic[T]):
    turns: _Turns = field(default_factory=_Turns)
    # By tenant: (urgency, arrival, item); equal urgencies go in the order of arrival.
    waiting: dict[str, list[tuple[float, int, T]]] = field(default_factory=dict)
    # Tenants by whose turn it is. A clock that has moved on since, or an absent tenant, is no good.
    order: list[tuple[float, str]] = field(default_factory=list)

    def join(self, tenant: str) -> None:
        self.turns.join(tenant)
        heapq.heappush(self.order, self.turns.order(tenant))

    def next_tenant(self) -> str:
        while True:
            clock, tenant = self.order[0]
            if tenant in self.waiting and self.turns.order(tenant)[0] == clock:
                return tenant
            heapq.heappop(self.order)

    def charge(self, tenant: str, cost: float) -> None:
        self.turns.charge(tenant, cost)
        if self.waiting[tenant]:
            heapq.heappush(self.order, self.turns.order(tenant))
        else:
            del self.waiting[tenant]
            self.turns.sweep(self.waiting)


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
        # What `heads` gives, until something changes.
        self._heads: list[tuple[str, T]] | None = None

    def __len__(self) -> int:
        return self._count

    def push(self, item: T, *, tier: str, tenant: str, urgency: float) -> None:
        """Adds an item; in its tenant's part the least `urgency` goes first."""
        line = self._tiers.setdefault(tier, _Tier())
        if not line.waiting:
            self._turns.join(tier)
        if tenant not in line.waiting:
            line.join(tenant)
            line.waiting[tenant] = []
        self._arrivals += 1
        self._count += 1
        self._heads = None
        heapq.heappush(line.waiting[tenant], (urgency, self._arrivals, item))

    def remove(self, item: T) -> None:
        """Takes out an item that is in the line."""
        # It goes when it comes to the front.
        self._removed.add(item)
        self._count -= 1
        self._heads = None

    def heads(self) -> Iterator[tuple[str, T]]:
        """Yields the tiers that wait and the item of each that goes first, fairest first."""
        if self._heads is None:
            found = [(name, item) for name in self._tiers if (item := self._head(name)) is not None]
            self._heads = sorted(found, key=lambda head: self._turns.order(head[0]))
        return iter(self._heads)

    def pop(self, tier: str, cost: float) -> T:
        """Takes out the first item of a tier, as `heads` has just named it, and charges for it."""
        line = self._tiers[tier]
        tenant = line.next_tenant()
        item = heapq.heappop(line.waiting[tenant])[2]
        self._count -= 1
        self._heads = None
        self._turns.charge(tier, cost / self._weights.get(tier, _DEFAULT_WEIGHT))
        line.charge(tenant, cost)
        return item

    def _head(self, tier: str) -> T | None:
        """Returns what goes first of a tier; drops what was removed on the way to it."""
        line = self._tiers[tier]
        while line.waiting:
            tenant = line.next_tenant()
            waiting = line.waiting[tenant]
            if waiting[0][2] not in self._removed:
                return waiting[0][2]
            self._removed.discard(heapq.heappop(waiting)[2])
            if not waiting:
                del line.waiting[tenant]
        return None
