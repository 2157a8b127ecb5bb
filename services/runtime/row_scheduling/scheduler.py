"""The row scheduler: one object without I/O, which the live loop and the simulator both drive.

It is told who waits and what time it is, and answers who is in the next step. Nothing in it reads a
clock, draws a number or waits, so the same arrivals always give the same steps.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from .candidates import Candidate, StepCosts
from .shares import FairShares

C = TypeVar("C", bound=Candidate)

DEFAULT_TIER_WEIGHTS: Mapping[str, float] = MappingProxyType({"pro": 4.0, "free": 1.0})
# A job without a deadline is treated as if it had to begin by then, so that it is not always last.
PATIENCE_S = 60.0
# Picks after which a job is old, and which picks the old ones lead, whatever else holds.
OLD_PICK_COUNT = 512
AGEING_PICK_COUNT = 8
# Full steps that a tier may save up while it needs less than its share.
TIER_STEP_COUNT = 8
# A job that has begun and has no more steps to go than these is finished first, as long as its tier
# is no more full steps ahead than this.
LAST_STEP_COUNT = 3
AHEAD_STEP_COUNT = 1
# Full steps by which a tenant may be ahead of another before deadlines no longer help it.
TENANT_STEP_COUNT = 8
# Part of a job's time that its steps may take together: they never take exactly what they should.
_USED_TIME = 0.6
_ROUNDING = 1 + 1e-9


@dataclass(slots=True)
class _Inside:
    """How the keys and the tenants of one tier stand."""

    keys: FairShares[Hashable] = field(default_factory=FairShares[Hashable])
    tenants: FairShares[str] = field(default_factory=FairShares[str])


class RowScheduler:
    """Picks the jobs of each step.

    Every job is picked at least once in `old_pick_count + AGEING_PICK_COUNT * n` picks, where `n`
    is the number of jobs there were when it was last picked or came, whatever comes after it.

    Attributes:
        costs: what steps cost.
        row_limit: most rows of one job; what `costs` says may be less, and a job of more rows
            then is alone in its step.
        pick_count: how often it has picked.

    Args:
        tier_weights: shares of the tiers; one that is not named has weight 1.
        old_pick_count: picks without a step after which a job is old; every eighth pick is led by
            the oldest of those.
    """

    def __init__(
        self,
        costs: StepCosts,
        *,
        row_limit: int,
        tier_weights: Mapping[str, float] = DEFAULT_TIER_WEIGHTS,
        old_pick_count: int = OLD_PICK_COUNT,
    ) -> None:
        self.costs = costs
        self.row_limit = row_limit
        self.pick_count = 0
        self._weights = dict(tier_weights)
        self._old_pick_count = old_pick_count
        self._tiers = FairShares(self._weights)
        self._inside: dict[str, _Inside] = {}

    def pick(self, candidates: Sequence[C], now_s: float) -> list[C]:
        """Returns the jobs of the next step: at least one, all of one key.

        Args:
            candidates: at least one, in the order of their arrival.
            now_s: the time, on the clock of the candidates' deadlines.
        """
        self.pick_count += 1
        self._admit(candidates)
        leader = self._leader(candidates, now_s)
        batch = self._batch(leader, candidates, now_s)
        self._charge(batch, candidates)
        return batch

    def _admit(self, candidates: Sequence[C]) -> None:
        by_tier: dict[str, list[C]] = {}
        for one in candidates:
            by_tier.setdefault(one.tier, []).append(one)
        self._tiers.admit(by_tier)
        self._inside = {tier: self._inside.get(tier) or _Inside() for tier in by_tier}
        for tier, inside in self._inside.items():
            inside.keys.admit(one.key for one in by_tier[tier])
            inside.tenants.admit(one.tenant for one in by_tier[tier])

    def _leader(self, candidates: Sequence[C], now_s: float) -> C:
        """Returns the job that the step is for; its key is the step's."""
        if self.pick_count % AGEING_PICK_COUNT == 0:
            oldest = min(candidates, key=lambda one: one.last_pick)
            if self.pick_count - oldest.last_pick > self._old_pick_count:
                return oldest
        behind = min(self._inside, key=self._tier_order)
        own = self._finishing(candidates, behind)
        own = own or [one for one in candidates if one.tier == behind]
        keys = self._inside[own[0].tier].keys
        # Among equal keys the one whose job has waited longest.
        first = min(own, key=lambda one: (keys.level(one.key), one.last_pick))
        same = [one for one in own if one.key == first.key]
        return min(same, key=self._order(first.key, now_s))

    def _finishing(self, candidates: Sequence[C], behind: str) -> list[C]:
        """Returns the jobs of one tier that come before those of the tier that is furthest behind.

        Small jobs that took turns with a crowd at each step would all be late; finished one by one,
        those that have begun are in time.
        """
        least = self._tiers.level(behind)
        found: dict[str, list[C]] = {}
        for one in candidates:
            begun = one.remaining_step_count < one.step_count
            if begun and one.tier != behind and one.remaining_step_count <= LAST_STEP_COUNT:
                ahead = (self._tiers.level(one.tier) - least) * self._weight(one.tier)
                if ahead <= AHEAD_STEP_COUNT * self.costs.step_cost(one.key, self._cap(one.key)):
                    found.setdefault(one.tier, []).append(one)
        return found[min(found, key=self._tier_order)] if found else []

    def _tier_order(self, tier: str) -> tuple[float, float, str]:
        return self._tiers.level(tier), -self._weight(tier), tier

    def _order(self, key: Hashable, now_s: float) -> "_Order":
        full_s = self.costs.step_seconds(key, self._cap(key))
        quantum = TENANT_STEP_COUNT * self.costs.step_cost(key, self._cap(key))
        tenants = {tier: inside.tenants for tier, inside in self._inside.items()}
        return _Order(self.costs, now_s, full_s, quantum, tenants)

    def _cap(self, key: Hashable) -> int:
        return max(1, min(self.row_limit, self.costs.row_limit(key)))

    def _weight(self, tier: str) -> float:
        return self._weights.get(tier, 1.0)

    def _batch(self, leader: C, candidates: Sequence[C], now_s: float) -> list[C]:
        """Returns the leader and whoever can share its step."""
        waiting = [one for one in candidates if one.key == leader.key and one is not leader]
        waiting.sort(key=self._order(leader.key, now_s))
        queues: dict[str, list[C]] = {}
        for one in reversed(waiting):
            queues.setdefault(one.tier, []).append(one)
        cap, share = self._cap(leader.key), self._share(leader.tier)
        room = _Room(self.costs, leader, cap, share, _step_budget_s(self.costs, leader, now_s))
        levels = {tier: self._tiers.level(tier) for tier in self._inside}
        batch, added = [leader], leader
        while True:
            levels[added.tier] += room.row_cost * added.row_count / self._weight(added.tier)
            open_tiers = [tier for tier in queues if room.next_of(queues[tier])]
            if not open_tiers:
                return batch
            tier = min(open_tiers, key=lambda name: (levels[name], -self._weight(name), name))
            added = queues[tier].pop()
            room.add(added)
            batch.append(added)

    def _share(self, tier: str) -> float:
        """Returns which part of the compute a tier is to get of those that want some now."""
        return self._weight(tier) / sum(map(self._weight, self._inside))

    def _charge(self, batch: Sequence[C], candidates: Sequence[C]) -> None:
        """Bills each member's rows' share of the step, and settles what is owed."""
        key = batch[0].key
        row_count = sum(one.row_count for one in batch)
        row_cost = self.costs.step_cost(key, row_count) / row_count
        demand: dict[str, int] = {}
        for one in candidates:
            if one.key == key:
                demand[one.tier] = demand.get(one.tier, 0) + one.row_count
        for one in batch:
            cost, inside = row_cost * one.row_count, self._inside[one.tier]
            self._tiers.charge(one.tier, cost / self._weight(one.tier))
            # A key weighs as much as it can put into a step: a single job is not half the work.
            inside.keys.charge(key, cost / min(demand[one.tier], self._cap(key)))
            inside.tenants.charge(one.tenant, cost)
        picked = {id(one) for one in batch}
        self._settle(key, [one for one in candidates if id(one) not in picked])

    def _settle(self, key: Hashable, left: Sequence[Candidate]) -> None:
        full_cost = self.costs.step_cost(key, self._cap(key))
        saved = TIER_STEP_COUNT * full_cost
        self._tiers.settle({one.tier for one in left}, lambda tier: saved / self._weight(tier))
        for tier, inside in self._inside.items():
            own = [one for one in left if one.tier == tier]
            inside.keys.settle({one.key for one in own}, lambda _: 0.0)
            ahead = TENANT_STEP_COUNT * full_cost
            inside.tenants.settle({one.tenant for one in own}, lambda _, ahead=ahead: ahead)


@dataclass(frozen=True, slots=True)
class _Order:
    """Sorts the jobs of one key and tier: as a key function of `sorted`."""

    costs: StepCosts
    now_s: float
    full_step_s: float
    quantum: float
    tenants: Mapping[str, FairShares[str]]

    def __call__(self, one: Candidate) -> tuple[int, float, float, int]:
        ahead = self.tenants[one.tier].level(one.tenant)
        return int(ahead / self.quantum), self._slack_s(one), ahead, one.last_pick

    def _slack_s(self, one: Candidate) -> float:
        """Returns how long a job could wait and be in time, in full steps from then on.

        Steps taken count too: if they did not, a job that is served would fall behind those like
        it, all of them would take turns, and all would end when the last one does.
        """
        if one.deadline_s is None:
            return one.arrival_s + PATIENCE_S - self.now_s
        if _step_budget_s(self.costs, one, self.now_s) == math.inf:
            # Too late even alone from now on: it must not make others late as well.
            return math.inf
        return one.deadline_s - self.now_s - one.step_count * self.full_step_s


def _step_budget_s(costs: StepCosts, one: Candidate, now_s: float) -> float:
    """Returns how long each of a job's steps may take; infinite if it cannot be in time anyhow."""
    if one.deadline_s is None:
        return math.inf
    budget_s = (one.deadline_s - now_s) / one.remaining_step_count
    return budget_s if costs.step_seconds(one.key, one.row_count) <= budget_s else math.inf


class _Room:
    """What a step has room for: rows up to the cap, and company that does not hold up its leader.

    A step takes longer with more rows. So nobody comes along who would make the leader late; and
    jobs of other tiers only as long as those of the leader's tier are not slower than if the tiers
    took turns, by their shares, in steps of their own.
    """

    def __init__(
        self, costs: StepCosts, leader: Candidate, cap: int, share: float, budget_s: float
    ) -> None:
        self._costs, self._key, self._tier, self._share = costs, leader.key, leader.tier, share
        self._budget_s = budget_s * _USED_TIME
        self._left = max(cap - leader.row_count, 0)
        self._row_count = self._own_count = leader.row_count
        self.row_cost = costs.step_cost(leader.key, cap) / cap

    def next_of(self, queue: list[Any]) -> bool:
        """Returns whether the last of a queue may come along; drops those that never will."""
        while queue and queue[-1].row_count > self._left:
            queue.pop()
        return bool(queue) and self._bearable(queue[-1])

    def add(self, one: Candidate) -> None:
        """Takes one in."""
        self._left -= one.row_count
        self._row_count += one.row_count
        self._own_count += one.row_count if one.tier == self._tier else 0

    def _bearable(self, one: Candidate) -> bool:
        row_count = self._row_count + one.row_count
        if self._costs.step_seconds(self._key, row_count) > self._budget_s:
            return False
        if one.tier == self._tier:
            return True
        together = self._costs.step_cost(self._key, row_count)
        alone = self._costs.step_cost(self._key, self._own_count)
        return together * self._share <= alone * _ROUNDING
