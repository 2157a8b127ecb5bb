"""Who is in the next step: shares of tiers and tenants, deadlines, ageing, caps."""

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_device import Costs, Device

from sangsang.services.runtime.row_scheduling import ProfiledCosts, scheduler
from sangsang.services.runtime.row_scheduling.scheduler import AGEING_PICK_COUNT

# Picks after which a job is old, in the test of the bound.
OLD = 20


def flood(device, count, **fields):
    for _ in range(count):
        device.add(**fields)


jobs_of_all_kinds = st.builds(
    dict,
    key=st.sampled_from("abc"),
    row_count=st.integers(1, 3),
    tier=st.sampled_from(["free", "pro", "other"]),
    tenant=st.sampled_from("xyz"),
    deadline_s=st.none() | st.floats(0, 500),
    step_count=st.integers(1, 40),
)
streams = st.lists(st.lists(jobs_of_all_kinds, max_size=3), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(streams, st.integers(3, 8), st.integers(1, 8), st.floats(0, 4))
def test_steps_are_of_one_key_within_the_cap_and_nobody_starves(stream, row_limit, cap, overhead):
    device = Device(costs=Costs(overhead, cap), row_limit=row_limit, old_pick_count=OLD)
    # By when each job must have been picked again: the bound that the scheduler states.
    due = {}
    for arrivals in stream + [[]] * 400:
        for fields in arrivals:
            device.add(**fields)
        if not device.jobs:
            continue
        for job in device.jobs:
            due.setdefault(job, device.scheduler.pick_count + bound(device))
        batch = device.step()
        assert len({job.key for job in batch}) == 1
        assert len(set(batch)) == len(batch)
        rows = sum(job.row_count for job in batch)
        assert rows <= min(cap, row_limit) or len(batch) == 1
        for job in batch:
            due.pop(job)
        assert all(device.scheduler.pick_count < pick for pick in due.values())
    # Everybody who was ever there is done, or is still taking steps.
    assert all(job.picks for job in device.jobs)


def bound(device):
    return OLD + AGEING_PICK_COUNT * len(device.jobs)


@settings(max_examples=60, deadline=None)
@given(st.lists(jobs_of_all_kinds, min_size=1, max_size=20), st.integers(3, 8))
def test_within_a_tier_no_room_is_left_that_somebody_could_use(kinds, row_limit):
    device = Device(row_limit=row_limit)
    for fields in kinds:
        device.add(**{**fields, "tier": "free", "deadline_s": None})
    for _ in range(min(30, len(kinds))):
        if not device.jobs:
            break
        waiting = list(device.jobs)
        batch = device.step()
        rows = sum(job.row_count for job in batch)
        left = [job for job in waiting if job.key == batch[0].key and job not in batch]
        assert all(rows + job.row_count > row_limit for job in left)


@pytest.mark.parametrize("overhead", [0.0, 0.5, 8.0])
@pytest.mark.parametrize("keys", ["aa", "ab"])
@pytest.mark.parametrize("weights", [{"pro": 4, "free": 1}, {"pro": 1, "free": 1}, {"pro": 10}])
def test_tiers_that_want_more_than_there_is_share_by_weight(weights, keys, overhead):
    sizes = {"a": 1.0, "b": 2.3}
    device = Device(costs=Costs(overhead, sizes=sizes), tier_weights=weights)
    flood(device, 12, key=keys[0], tier="pro", row_count=2)
    flood(device, 30, key=keys[1], tier="free")
    device.run(2000)
    wanted = weights["pro"] / (weights["pro"] + weights.get("free", 1))
    assert device.compute["pro"] / device.now_s == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_shares_hold_in_a_random_life(seed):
    chance = random.Random(seed)
    device = Device(costs=Costs(sizes={"a": 1.0, "b": 2.0}))
    for _ in range(2500):
        # Enough of both tiers, in jobs of random sizes, lengths, deadlines and tenants.
        for tier, least in (("pro", 20), ("free", 40)):
            while sum(job.tier == tier for job in device.jobs) < least:
                device.add(
                    tier=tier,
                    key=chance.choice("ab"),
                    row_count=chance.choice([1, 2]),
                    tenant=chance.choice("xyz"),
                    step_count=chance.choice([3, 12, 35]),
                    deadline_s=chance.choice([None, device.now_s + chance.uniform(10, 5000)]),
                )
        device.step()
    assert device.compute["pro"] / device.now_s == pytest.approx(0.8, abs=0.03)


def test_one_tier_alone_gets_everything():
    device = Device()
    flood(device, 20, tier="free")
    device.run(50)
    assert all(len(batch) == 8 for batch in device.batches)
    assert device.compute["free"] == pytest.approx(device.now_s)


@pytest.mark.parametrize("overhead", [0.0, 0.5, 4.0, 50.0])
def test_a_tier_that_wants_little_gets_it_at_its_share_of_the_speed(overhead):
    """One Pro job beside a flood: no slower than if the tiers took turns, four to one."""
    costs = Costs(overhead)
    device = Device(costs=costs)
    flood(device, 40, tier="free", step_count=3)
    pro = device.add(tier="pro", row_count=2, step_count=350)
    started_s = device.now_s
    while pro.remaining_step_count:
        device.step()
        flood(device, 40 - len(device.jobs), tier="free", step_count=3)
    alone_s = 350 * costs.step_seconds("a", 2)
    full_s = costs.step_seconds("a", 8)
    assert device.now_s - started_s <= alone_s / 0.8 + 2 * full_s
    # And the flood gets at least the rest of the time.
    assert device.compute["free"] >= 0.2 * device.now_s - 2 * full_s


def test_company_is_welcome_where_it_costs_nothing():
    """On a device whose steps take as long with one row as with eight, all tiers share each."""
    device = Device(costs=Costs(overhead=1000.0))
    flood(device, 20, tier="free")
    device.add(tier="pro", row_count=2)
    for batch in (device.step() for _ in range(20)):
        assert Counter(job.tier for job in batch) == {"pro": 1, "free": 6}


@pytest.mark.parametrize("before", ["absent", "little"])
@pytest.mark.parametrize(("late", "crowd"), [("pro", "free"), ("free", "pro")])
def test_who_wanted_little_saves_up_some_steps_and_no_more(late, crowd, before):
    # Steps take as long with one row as with eight, or a single job would use up half the time.
    device = Device(costs=Costs(overhead=100.0), tier_weights={"pro": 1, "free": 1})
    flood(device, 20, tier=crowd)
    if before == "little":
        device.add(tier=late)
    device.run(500)
    flood(device, 20, tier=late)
    got = Counter(job.tier for _ in range(60) for job in device.step())
    # 480 rows, half of them each tier's; up to eight full steps are the latecomer's besides.
    assert 240 < got[late] <= 240 + 64 + 8


def test_a_small_tier_comes_first_until_its_share_is_used():
    """Free needs a tenth and may have a fifth: it does not wait for a crowd of Pro."""
    device = Device()
    flood(device, 20, tier="pro", row_count=2)
    device.run(100)
    for _ in range(30):
        job = device.add(tier="free", step_count=3)
        device.run(3)
        assert not job.remaining_step_count
        device.run(10)


def test_a_small_job_that_has_begun_is_finished_before_turns_go_on(monkeypatch):
    """Beyond its share too: three steps in a row, and not one in each turn of the crowd's tier."""

    def longest_gap():
        device = Device(costs=Costs(overhead=0.0))
        flood(device, 5, tier="pro", row_count=8)
        device.run(100)
        gaps = []
        for _ in range(40):
            job = device.add(tier="free", step_count=3)
            while job.remaining_step_count:
                device.step()
            gaps.append(max(np.diff(job.picks)))
        return max(gaps)

    assert longest_gap() == 1
    monkeypatch.setattr(scheduler, "LAST_STEP_COUNT", 0)
    assert longest_gap() > 1


@pytest.mark.parametrize("step_count", [1, 3])
def test_small_jobs_get_no_more_than_their_share_in_the_long_run(step_count):
    device = Device(costs=Costs(overhead=0.0, cap=2))
    flood(device, 20, tier="pro", row_count=2)
    for _ in range(500):
        if sum(job.tier == "free" for job in device.jobs) < 10:
            device.add(tier="free", row_count=2, step_count=step_count)
        device.run(1)
    assert device.compute["free"] / device.now_s == pytest.approx(0.2, abs=0.02)


def test_a_tier_without_a_weight_has_one():
    device = Device(tier_weights={"pro": 3.0})
    flood(device, 12, tier="pro")
    flood(device, 12, tier="")
    device.run(1000)
    assert device.compute["pro"] / device.now_s == pytest.approx(0.75, abs=0.02)


def test_the_earliest_slack_comes_first():
    device = Device(costs=Costs(cap=1), row_limit=1)
    for deadline_s, steps in ((900, 5), (500, 5), (700, 300), (650, 5)):
        device.add(deadline_s=deadline_s, step_count=steps)
    order = sorted(device.jobs, key=lambda job: job.deadline_s - 1.5 * job.step_count)
    assert device.step() == [order[0]] == [device.jobs[2]]
    device.jobs.remove(order[0])
    assert device.step() == [order[1]]


def test_who_is_too_late_anyway_makes_nobody_else_late():
    device = Device(costs=Costs(cap=1), row_limit=1)
    late = device.add(deadline_s=14.0, step_count=10)
    fine = device.add(deadline_s=40.0, step_count=10)
    device.run(7)
    assert len(fine.picks) == 7
    assert not late.picks


def test_a_step_is_no_larger_than_its_leaders_deadline_bears():
    """Three steps in 13 s: each may take 0.6 of a third, two rows of 0.5 s and 1 s each."""
    device = Device()
    urgent = device.add(deadline_s=13.0, step_count=3)
    flood(device, 20)
    assert len(device.step()) == 2
    device.run(2)
    assert not urgent.remaining_step_count
    assert len(device.step()) == 8


def test_jobs_without_a_deadline_are_done_in_the_order_they_came():
    device = Device(costs=Costs(overhead=0.0, cap=1), row_limit=1)
    first = device.add(step_count=4)
    second = device.add(step_count=4, arrival_s=1.0)
    device.run(4)
    assert not first.remaining_step_count
    assert second.remaining_step_count == 4


def test_jobs_alike_are_finished_one_by_one_rather_than_all_at_the_end():
    device = Device(costs=Costs(overhead=0.0))
    for index in range(12):
        device.add(row_count=2, step_count=10, deadline_s=1000.0 + index)
    device.run(10)
    assert len(device.jobs) == 8


def test_a_flooding_tenant_holds_nobody_else_up():
    """Tenant x has ten times the jobs, all more urgent; y still gets half of what it could use."""
    device = Device()
    for _ in range(40):
        device.add(tenant="x", deadline_s=10**6)
    for _ in range(20):
        device.add(tenant="y", deadline_s=10**7)
    device.run(1000)
    assert device.compute["y"] / device.now_s == pytest.approx(0.5, abs=0.02)


def test_a_single_job_of_another_tenant_waits_some_steps_and_then_is_in_all():
    device = Device()
    flood(device, 40, tenant="x", deadline_s=10**6)
    device.run(100)
    other = device.add(tenant="y", deadline_s=10**7)
    device.run(60)
    assert len(other.picks) >= 60 - 9


def test_a_tenant_of_many_keys_is_one_tenant():
    device = Device()
    for key in "abc":
        flood(device, 20, tenant="x", key=key)
    flood(device, 20, tenant="y", key="c")
    device.run(3000)
    # One key in three is y's too, and there it comes first.
    assert device.compute["y"] / device.now_s == pytest.approx(1 / 3, abs=0.02)


def test_keys_share_by_what_they_could_put_into_a_step():
    device = Device()
    flood(device, 100, key="a")
    flood(device, 100, key="b")
    lone = device.add(key="c")
    device.run(1800)
    steps = Counter(batch[0].key for batch in device.batches)
    assert steps["a"] == pytest.approx(steps["b"], rel=0.02)
    # One of seventeen rows, and a step of one row costs 1.5 of 8.5.
    assert len(lone.picks) / 1800 == pytest.approx((1 / 17) / 1.5 * 8.5, abs=0.12)
    assert len(lone.picks) >= 1800 / 17


def test_a_job_of_more_rows_than_pay_is_alone():
    device = Device(costs=Costs(cap=2), row_limit=4)
    wide = device.add(row_count=3)
    device.add()
    assert [wide] in [device.step() for _ in range(2)]


def test_every_pick_is_the_same_again():
    def life():
        chance = random.Random(3)
        device = Device()
        for _ in range(300):
            tier, key = chance.choice(["pro", "free"]), chance.choice("ab")
            device.add(tier=tier, key=key, step_count=chance.randint(1, 9))
            device.step()
        return [[device.batches.index(b), len(b)] for b in device.batches], device.compute

    assert life() == life()


class TestCosts:
    def test_without_a_profile_rows_and_pixels_count(self):
        costs = ProfiledCosts(8, lambda key: (key, 64))
        assert costs.row_limit(64) == costs.row_limit(128) == 8
        assert costs.step_cost(128, 3) == 2 * costs.step_cost(64, 3)
        assert costs.step_seconds(64, 3) == 0

    def test_seconds_are_learnt_from_steps(self):
        costs = ProfiledCosts(8, lambda key: (key, 64))
        costs.note_step(64, 3, 0.2)
        assert costs.step_seconds(64, 3) == pytest.approx(0.2)
        for _ in range(300):
            costs.note_step(64, 3, 0.4)
        assert costs.step_seconds(128, 3) == pytest.approx(0.8, rel=1e-3)

    @pytest.mark.parametrize("overhead", [0.0, 0.6, 4.0, 30.0])
    def test_what_a_step_costs_beside_its_rows_is_learnt(self, overhead):
        costs, chance = ProfiledCosts(8, lambda key: (key, 64)), random.Random(1)
        for _ in range(300):
            key, rows = chance.choice([64, 128]), chance.randint(1, 8)
            noise = chance.uniform(0.98, 1.02)
            costs.note_step(key, rows, noise * 0.01 * (key / 64) * (overhead + rows))
        for rows in (1, 3, 8):
            expected = 0.02 * (overhead + rows)
            assert costs.step_seconds(128, rows) == pytest.approx(expected, rel=0.15)

    @given(st.lists(st.tuples(st.integers(1, 8), st.floats(1e-6, 10)), min_size=1, max_size=40))
    def test_no_noise_makes_nonsense(self, steps):
        costs = ProfiledCosts(8, lambda key: (key, key))
        for rows, seconds in steps:
            costs.note_step(64, rows, seconds)
            times = [costs.step_seconds(64, count) for count in (1, 2, 8)]
            assert 0 < times[0] <= times[1] <= times[2] < math.inf
            assert 0 < costs.step_cost(64, 1) < costs.step_cost(64, 8)
