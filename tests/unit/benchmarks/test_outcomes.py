"""Percentiles and goodput from outcomes that are written by hand."""

import pytest
from peers.outcomes import Ending, Outcome, in_time, latencies, open_figures, percentile

LIMITS_S = {"free": 0.3, "pro": 3.0}


def outcome(tier="free", ending=Ending.FINISHED, seconds=0.1):
    return Outcome(tier, ending, 0.0, seconds)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.001, 1)]
)
def test_percentiles_are_by_nearest_rank(share, expected):
    assert percentile(reversed(range(1, 101)), share) == expected


def test_a_percentile_of_few_is_one_of_them_and_of_none_is_none():
    assert percentile([3.0, 1.0], 0.5) == 1.0
    assert percentile([3.0, 1.0], 0.99) == 3.0
    assert percentile([], 0.5) is None


def test_in_time_is_finished_within_the_limit_of_the_tier():
    good = [outcome(seconds=0.3), outcome("pro", seconds=2.9)]
    bad = [
        outcome(seconds=0.31),
        outcome("pro", seconds=3.1),
        outcome(ending=Ending.REFUSED),
        outcome(ending=Ending.EXPIRED),
        outcome(ending=Ending.CANCELLED),
        outcome(ending=Ending.FAILED),
    ]
    assert in_time([*good, *bad], LIMITS_S) == good


def test_goodput_counts_a_second_of_arrivals_and_shares_leave_out_the_cancelled():
    outcomes = [
        *[outcome()] * 3,
        outcome(seconds=0.5),
        outcome(ending=Ending.REFUSED, seconds=0.01),
        *[outcome(ending=Ending.CANCELLED)] * 5,
        outcome("pro", seconds=2.0),
    ]
    figures = open_figures(outcomes, LIMITS_S, seconds=2.0)
    assert figures["free", "goodput_per_s"] == 1.5
    assert figures["free", "in_time_share"] == 3 / 5
    assert figures["free", "throughput_per_s"] == 2.0
    assert figures["free", "cancelled"] == 5
    assert figures["pro", "in_time_share"] == 1.0
    assert figures["all", "goodput_per_s"] == 2.0
    assert figures["all", "arrived"] == 11


def test_a_load_without_a_tier_has_no_share_of_it():
    figures = open_figures([outcome()], LIMITS_S, seconds=1.0)
    assert figures["pro", "in_time_share"] is None
    assert figures["pro", "p50_ms"] is None


def test_latencies_are_of_the_finished_alone():
    outcomes = [outcome(seconds=0.1), outcome(ending=Ending.EXPIRED, seconds=9.0)]
    assert latencies(outcomes, "free")["free", "p99_ms"] == pytest.approx(100)
