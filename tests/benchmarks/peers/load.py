"""Who asks for what, and when: arrival plans, the same for every contender.

All of it follows from a seed. Arrivals are open loop: they come when the plan says, whatever has
become of those before, as callers do who do not know of each other.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

PRO_SHARE = 0.3
CANCELLED_SHARE = 0.05
# A request is of use within this many times what it takes alone.
PATIENCE = 3.0
# A request that has not begun after this share of its patience can no longer be done in time; peers
# that drop such requests are told.
START_SHARE = (PATIENCE - 1) / PATIENCE
# Of the loads that come in one form only.
PEAK_SEED = 77

_THINGS = ("rocket", "cat", "dog", "pizza", "snowman", "strawberry", "guitar", "sailboat", "tree")
_COLOURS = ("yellow", "blue", "green", "red", "pink", "orange", "purple", "white")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes:
        at_s: when it comes, from the start of the load; 0 where it comes when there is room.
        tier: `free` or `pro`.
        prompt: what is to be seen.
        seed: of the picture.
        patience_s: how long its caller waits; None for as long as it takes.
        cancel_after_s: when its caller loses interest; None for never.
    """

    at_s: float
    tier: str
    prompt: str
    seed: int
    patience_s: float | None = None
    cancel_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """Arrivals at random, a share of capacity, for a while.

    Attributes:
        share: of serial capacity.
        seconds: how long.
    """

    share: float
    seconds: float


def serial_capacity(alone_s: Mapping[str, float], device_count: int) -> float:
    """Returns pictures a second of the mix, one at a time on each device."""
    mean_s = (1 - PRO_SHARE) * alone_s["free"] + PRO_SHARE * alone_s["pro"]
    return device_count / mean_s


def arrivals(
    rates: Sequence[Rate], capacity_per_s: float, alone_s: Mapping[str, float], seed: int
) -> list[Ask]:
    """Returns Poisson arrivals of the mix.

    How many come, of which tier and how many are cancelled is what is expected, so that a short
    load is the load that its name says; when they come and who they are is random. (Given their
    number, the times of Poisson arrivals are uniform.)

    Args:
        rates: one after the other.
        capacity_per_s: pictures a second that a share of 1 stands for.
        alone_s: seconds of a picture alone by tier.
        seed: of the plan.
    """
    draw = random.Random(seed)
    asks: list[Ask] = []
    begin_s = 0.0
    for rate in rates:
        count = round(rate.share * capacity_per_s * rate.seconds)
        times = sorted(begin_s + draw.random() * rate.seconds for _ in range(count))
        tiers = _tiers(draw, count)
        asks += [_ask(draw, tier, at_s) for tier, at_s in zip(tiers, times, strict=True)]
        begin_s += rate.seconds
    cancelled = set(draw.sample(range(len(asks)), round(len(asks) * CANCELLED_SHARE)))
    return [
        replace(
            ask,
            patience_s=PATIENCE * alone_s[ask.tier],
            cancel_after_s=draw.random() * alone_s[ask.tier] if place in cancelled else None,
        )
        for place, ask in enumerate(asks)
    ]


def later(asks: Sequence[Ask], seconds: float) -> list[Ask]:
    """Returns the same requests so much later."""
    return [replace(ask, at_s=ask.at_s + seconds) for ask in asks]


def mix(count: int, seed: int) -> list[Ask]:
    """Returns requests of the mix, to be made as fast as it goes."""
    draw = random.Random(seed)
    return [_ask(draw, tier, 0.0) for tier in _tiers(draw, count)]


def singles(tier: str, count: int, seed: int) -> list[Ask]:
    """Returns requests of one tier."""
    draw = random.Random(f"{seed} {tier}")
    return [_ask(draw, tier, 0.0) for _ in range(count)]


def cancelled(count: int, alone_s: float, seed: int) -> list[Ask]:
    """Returns Pro requests that are each cancelled at a random moment while they run."""
    draw = random.Random(seed)
    return [
        replace(ask, cancel_after_s=alone_s * draw.uniform(0.1, 0.8))
        for ask in singles("pro", count, seed)
    ]


def _tiers(draw: random.Random, count: int) -> list[str]:
    """Returns tiers in their exact shares, shuffled."""
    pro_count = round(count * PRO_SHARE)
    tiers = ["pro"] * pro_count + ["free"] * (count - pro_count)
    draw.shuffle(tiers)
    return tiers


def _ask(draw: random.Random, tier: str, at_s: float) -> Ask:
    prompt = f"a {draw.choice(_THINGS)} on a {draw.choice(_COLOURS)} background"
    return Ask(at_s, tier, prompt, draw.randrange(2**31))
