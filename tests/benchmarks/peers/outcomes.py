"""What became of requests, and the figures that follow. Pure: reads no clock, starts nothing."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

TIERS = ("free", "pro")


class Ending(StrEnum):
    """How a request ended."""

    FINISHED = "finished"
    REFUSED = "refused"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request.

    Attributes:
        tier: its tier.
        ending: how it ended.
        started_s: when it was sent, from the start of the load.
        seconds: from then to its end, as its caller saw it.
        preview_s: from then to its first preview; None for none.
        picture: the file, where it was asked to be kept.
        detail: of a failure, for people.
    """

    tier: str
    ending: Ending
    started_s: float
    seconds: float
    preview_s: float | None = None
    picture: bytes = b""
    detail: str = ""


def percentile(values: Iterable[float], share: float) -> float | None:
    """Returns the value that a share of all are at or below (nearest rank); None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def in_time(outcomes: Iterable[Outcome], limits_s: Mapping[str, float]) -> list[Outcome]:
    """Returns those that were finished within their tier's limit."""
    return [
        one
        for one in outcomes
        if one.ending is Ending.FINISHED and one.seconds <= limits_s[one.tier]
    ]


def wanted(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Returns those whose caller did not cancel them."""
    return [one for one in outcomes if one.ending is not Ending.CANCELLED]


def open_figures(
    outcomes: Sequence[Outcome], limits_s: Mapping[str, float], seconds: float
) -> dict[tuple[str, str], float | None]:
    """Returns the figures of an open-loop load by tier (`all` too) and name.

    Goodput is pictures within the limit a second of arrivals, and `in_time_share` is the share of
    those that nobody cancelled. Latencies are of finished requests alone: read them beside the
    shares.

    Args:
        outcomes: of every arrival.
        limits_s: within which a picture counts, by tier.
        seconds: that arrivals came for.
    """
    figures: dict[tuple[str, str], float | None] = {}
    for tier in (*TIERS, "all"):
        some = [one for one in outcomes if tier in ("all", one.tier)]
        good, kept = in_time(some, limits_s), wanted(some)
        figures[tier, "arrived"] = len(some)
        for ending in Ending:
            figures[tier, ending.value] = sum(one.ending is ending for one in some)
        figures[tier, "goodput_per_s"] = len(good) / seconds
        figures[tier, "in_time_share"] = len(good) / len(kept) if kept else None
        figures[tier, "throughput_per_s"] = figures[tier, "finished"] / seconds
        figures.update(latencies(some, tier))
    return figures


def latencies(outcomes: Iterable[Outcome], tier: str) -> dict[tuple[str, str], float | None]:
    """Returns p50, p95 and p99 of the finished ones, in milliseconds."""
    seconds = [one.seconds for one in outcomes if one.ending is Ending.FINISHED]
    found = {name: percentile(seconds, share) for name, share in _PERCENTILES.items()}
    return {(tier, name): None if s is None else s * 1000 for name, s in found.items()}


_PERCENTILES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
