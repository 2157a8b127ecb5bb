"""Arrival plans: what a load's name says is what comes, and the same seed brings it again."""

import itertools
from statistics import mean

import pytest
from peers.load import PATIENCE, Rate, arrivals, cancelled, mix, serial_capacity, singles

RATES = (Rate(1.1, 50.0),)
ALONE_S = {"free": 0.1, "pro": 1.0}


def plan(seed=1, rates=RATES):
    return arrivals(rates, 4.0, ALONE_S, seed)


def test_capacity_is_of_the_mix_one_at_a_time_on_each_device():
    # 0.7 * 0.1 + 0.3 * 1.0 = 0.37 s of a device for a picture.
    assert serial_capacity(ALONE_S, 1) == pytest.approx(1 / 0.37)
    assert serial_capacity(ALONE_S, 4) == pytest.approx(4 / 0.37)


def test_a_seed_brings_the_same_arrivals_again_and_another_brings_others():
    assert plan(1) == plan(1)
    assert plan(1) != plan(2)


def test_as_many_come_as_the_share_says_in_the_mix_and_in_time():
    asks = plan()
    assert len(asks) == 220
    assert sum(ask.tier == "pro" for ask in asks) == 66
    assert sum(ask.cancel_after_s is not None for ask in asks) == 11
    times = [ask.at_s for ask in asks]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] < 50


def test_arrivals_are_as_irregular_as_poisson():
    times = [ask.at_s for ask in plan()]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    square = mean(gap**2 for gap in gaps)
    # Of an exponential gap the mean square is twice the square of the mean; of an even one, once.
    assert 1.5 < square / mean(gaps) ** 2 < 2.6


def test_rates_follow_each_other():
    asks = plan(rates=(Rate(0.5, 10.0), Rate(4.0, 5.0), Rate(0.5, 10.0)))
    counts = [sum(lo <= ask.at_s < hi for ask in asks) for lo, hi in ((0, 10), (10, 15), (15, 25))]
    assert counts == [20, 80, 20]


def test_callers_wait_three_times_what_their_tier_takes_alone():
    for ask in plan():
        assert ask.patience_s == PATIENCE * ALONE_S[ask.tier]
        assert ask.cancel_after_s is None or ask.cancel_after_s < ALONE_S[ask.tier]


def test_a_mix_has_exact_shares_and_is_shuffled():
    tiers = [ask.tier for ask in mix(40, 7)]
    assert tiers.count("pro") == 12
    assert sum(one != other for one, other in itertools.pairwise(tiers)) > 5
    assert all(ask.patience_s is None for ask in mix(40, 7))


def test_singles_are_of_their_tier_with_seeds_of_their_own():
    asks = singles("pro", 5, 1)
    assert {ask.tier for ask in asks} == {"pro"}
    assert len({ask.seed for ask in asks}) == 5


def test_lone_requests_are_cancelled_while_they_run():
    assert all(0 < (ask.cancel_after_s or 0) < 0.9 for ask in cancelled(20, 1.0, 3))
