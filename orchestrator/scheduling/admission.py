"""Who may come in: a bounded number waits, with a bounded amount of work, each able to make it.

A refusal is immediate and says when to come back. What nobody can tell yet (a model that has not
run) is not held against a request.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...services.runtime.errors import DeadlineTooShort, Overloaded
from .work import Work

_SHORTEST_RETRY_S = 0.25


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """How much may wait.

    Attributes:
        max_waiting: requests that have not started.
        max_wait_s: estimated time until a request that comes now has started.
    """

    max_waiting: int = 256
    max_wait_s: float = 60.0


@dataclass(slots=True)
class Backlog:
    """What is admitted and not done.

    Attributes:
        admitted: requests, all of them.
        waiting: those that have not started.
        tier_seconds: estimated device-seconds that are left, by tier.
    """

    admitted: int = 0
    waiting: int = 0
    tier_seconds: dict[str, float] = field(default_factory=dict[str, float])

    def add(self, tier: str, seconds: float) -> None:
        """Adds work, or takes it away."""
        self.tier_seconds[tier] = max(0.0, self.tier_seconds.get(tier, 0.0) + seconds)

    def wait_s(self, tier: str, weights: Mapping[str, float], device_count: int) -> float:
        """Returns how long the work ahead of a request of a tier takes.

        All work if tiers took turns in the order of arrival; less where the tier's share of the
        devices lets it pass the others.
        """
        own = self.tier_seconds.get(tier, 0.0)
        present = {name for name, seconds in self.tier_seconds.items() if seconds > 0} | {tier}
        share = weights.get(tier, 1.0) / sum(weights.get(name, 1.0) for name in present)
        return min(sum(self.tier_seconds.values()), own / share) / max(1, device_count)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a request may expect.

    Attributes:
        wait_s: time until the work ahead of it is done.
        raw_s: time until its pictures are, in batches as full as they are, as costs say.
        soonest_s: the same where its deadline keeps its batches small; what has to be done before
            it is corrected by how far off such estimates were.
        least_s: what it takes at the very best, on an idle mesh.
        starts: whether it can start at once.
    """

    wait_s: float
    raw_s: float
    soonest_s: float
    least_s: float
    starts: bool


def check_admission(
    work: Work, backlog: Backlog, limits: AdmissionLimits, estimate: Estimate, now_s: float
) -> None:
    """Returns if a request may come in.

    Args:
        work: what it asks for.
        backlog: what was admitted before.
        limits: how much may wait.
        estimate: what it may expect.
        now_s: the time.

    Raises:
        Overloaded: too much waits.
        DeadlineTooShort: it cannot be done in its time.
    """
    if backlog.waiting >= limits.max_waiting and not estimate.starts:
        raise Overloaded(
            f"{backlog.waiting} requests wait already",
            metadata={"queued": str(backlog.waiting), "limit": str(limits.max_waiting)},
            retry_delay_s=max(_SHORTEST_RETRY_S, estimate.wait_s / 2),
        )
    if estimate.wait_s > limits.max_wait_s:
        raise Overloaded(
            f"{estimate.wait_s:.1f} s of work wait already, at most {limits.max_wait_s:g} s may",
            metadata={"queued_s": f"{estimate.wait_s:.3f}", "limit_s": f"{limits.max_wait_s:g}"},
            retry_delay_s=max(_SHORTEST_RETRY_S, estimate.wait_s - limits.max_wait_s),
        )
    # On an idle mesh the benefit of the doubt: estimates that are too high would never be mended.
    needed_s = estimate.soonest_s if backlog.admitted else estimate.least_s
    if work.deadline_s is not None and now_s + needed_s > work.deadline_s:
        left_s = max(0.0, work.deadline_s - now_s)
        raise DeadlineTooShort(
            f"it would take about {needed_s * 1000:.0f} ms, and {left_s * 1000:.0f} ms are left",
            metadata={
                "estimate_ms": f"{needed_s * 1000:.0f}",
                "left_ms": f"{left_s * 1000:.0f}",
            },
            # A shorter line may do; a deadline below the work itself never will.
            retry_delay_s=max(_SHORTEST_RETRY_S, needed_s - left_s)
            if estimate.least_s <= left_s
            else None,
        )
