"""Requests that are drawn at random: the same seed always draws the same ones.

Arrivals are a Poisson process, one with bursts, or a closed loop; tiers, sizes, tenants and who
cancels are drawn for each request by itself.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .workload import Request, Workload


@dataclass(frozen=True, slots=True)
class TierMix:
    """One tier of a mix.

    Attributes:
        share: of the requests, against the other tiers'.
        deadline_s: after its arrival; None for none.
    """

    share: float
    step_count: int
    row_count: int
    deadline_s: float | None = None


# What the shipped model's tiers are (its `sangsang.json`), 70 to 30.
DEFAULT_MIX: Mapping[str, TierMix] = {"free": TierMix(0.7, 3, 1), "pro": TierMix(0.3, 35, 2)}


@dataclass(frozen=True, slots=True)
class Burst:
    """A time of more arrivals, again and again.

    Attributes:
        factor: how many times the usual rate.
        length_s: of each burst.
        period_s: from one's start to the next one's; the first starts after one period.
    """

    factor: float
    length_s: float
    period_s: float

    def factor_at(self, time_s: float) -> float:
        """Returns how many times the usual rate holds at a time."""
        since_s = time_s % self.period_s
        return self.factor if time_s >= self.period_s and since_s < self.length_s else 1.0


@dataclass(frozen=True, slots=True)
class Mix:
    """Who asks for what.

    Attributes:
        sizes: shares by height and width; empty for the model's own size.
        tenant_count: tenants, equally likely.
        cancelled: share of the requests whose caller leaves.
        cancel_within_s: when at the latest, after the arrival; any moment is as likely.
    """

    tiers: Mapping[str, TierMix] = field(default_factory=lambda: DEFAULT_MIX)
    sizes: Mapping[tuple[int, int], float] = field(default_factory=dict[tuple[int, int], float])
    tenant_count: int = 1
    cancelled: float = 0.0
    cancel_within_s: float = 1.0


def open_loop(
    mix: Mix, *, rate_per_s: float, request_count: int, seed: int, burst: Burst | None = None
) -> Workload:
    """Returns requests that come whatever becomes of the others: a Poisson process.

    Bursts are drawn by thinning (Lewis and Shedler 1979).
    """
    chance = random.Random(seed)  # noqa: S311 reproducible, and nobody is to guess nothing
    times = _arrivals(chance, rate_per_s, burst)
    return Workload(tuple(_draw(mix, chance, i, next(times)) for i in range(request_count)))


def closed_loop(mix: Mix, *, concurrency: int, request_count: int, seed: int) -> Workload:
    """Returns requests of so many callers, who ask for the next picture when they have the last."""
    chance = random.Random(seed)  # noqa: S311 as above
    drawn = tuple(_draw(mix, chance, number, 0.0) for number in range(request_count))
    return Workload(drawn, concurrency)


def _arrivals(chance: random.Random, rate_per_s: float, burst: Burst | None) -> Iterator[float]:
    most = max(1.0, burst.factor) if burst else 1.0
    time_s = 0.0
    while True:
        time_s += chance.expovariate(rate_per_s * most)
        if burst is None or chance.random() * most < burst.factor_at(time_s):
            yield time_s


def _draw(mix: Mix, chance: random.Random, number: int, arrival_s: float) -> Request:
    tiers = list(mix.tiers)
    [tier] = chance.choices(tiers, [mix.tiers[name].share for name in tiers])
    kind = mix.tiers[tier]
    size = None
    if mix.sizes:
        [size] = chance.choices(list(mix.sizes), list(mix.sizes.values()))
    tenant = chance.randrange(mix.tenant_count)
    leaves, after_s = chance.random() < mix.cancelled, chance.uniform(0.0, mix.cancel_within_s)
    return Request(
        request_id=f"{number}",
        arrival_s=arrival_s,
        tier=tier,
        tenant=f"tenant{tenant}",
        step_count=kind.step_count,
        row_count=kind.row_count,
        size_px=size,
        deadline_s=kind.deadline_s,
        cancel_s=after_s if leaves else None,
    )
