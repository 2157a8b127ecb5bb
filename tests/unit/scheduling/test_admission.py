"""Who may come in. Run: pytest tests/unit/scheduling/test_admission.py"""

from random import Random

import pytest
from scheduler_driver import Driver, make_devices

from sangsang.orchestrator.scheduling.accuracy import Accuracy, FinishSlack
from sangsang.orchestrator.scheduling.admission import AdmissionLimits
from sangsang.orchestrator.scheduling.costs import Costs, InitialCosts
from sangsang.orchestrator.scheduling.scheduler import Policy, Scheduler
from sangsang.services.runtime.errors import DeadlineTooShort, Overloaded

# A row of one step takes 0.1 s of the device, light calls nothing.
COSTS = {"m": InitialCosts({1: 0.1, 8: 0.8}, {}, 64 * 64)}
FINISHING_COSTS = {"m": InitialCosts({1: 0.1, 8: 0.8}, {"postprocessing": 0.2}, 64 * 64)}


def drive(count: int = 1, *, costs=COSTS, **limits) -> Driver:
    scheduler = Scheduler(
        make_devices(count),
        policy=Policy(row_limit=2, ahead_batches=0.5),
        limits=AdmissionLimits(**limits),
        costs=Costs(costs),
    )
    return Driver(scheduler)


def start(driver: Driver, **changes) -> None:
    [picture] = driver.admit(**changes).pictures
    driver.ready(picture, "text_encoding")
    driver.dispatch()


def test_one_more_than_may_wait_is_refused_and_told_when_to_come_back():
    driver = drive(max_waiting=2)
    start(driver)
    driver.admit()
    driver.admit()
    with pytest.raises(Overloaded) as refused:
        driver.admit()
    assert refused.value.metadata == {"queued": "2", "limit": "2"}
    assert refused.value.retry_delay_s is not None
    assert refused.value.retry_delay_s > 0


def test_an_idle_mesh_takes_one_although_none_may_wait():
    driver = drive(max_waiting=0)
    start(driver)
    with pytest.raises(Overloaded):
        driver.admit()


def test_more_work_than_may_wait_is_refused():
    driver = drive(max_wait_s=1.0)
    for _ in range(4):
        driver.admit(step_count=3)
    with pytest.raises(Overloaded) as refused:
        driver.admit(step_count=3)
    # Four pictures of three steps of 0.1 s wait.
    assert refused.value.metadata == {"queued_s": "1.200", "limit_s": "1"}
    assert refused.value.retry_delay_s == pytest.approx(0.25)


def test_work_is_shared_by_the_devices():
    driver = drive(4, max_wait_s=1.0)
    for _ in range(13):
        driver.admit(step_count=3)
    with pytest.raises(Overloaded):
        for _ in range(4):
            driver.admit(step_count=3)


def test_what_cannot_make_its_deadline_is_refused():
    driver = drive()
    driver.admit(step_count=3, deadline_s=0.61)
    driver.admit(step_count=3, deadline_s=0.61)
    with pytest.raises(DeadlineTooShort) as refused:
        driver.admit(step_count=3, deadline_s=0.61)
    # 0.6 s ahead of it, and 0.3 s of its own.
    assert refused.value.metadata == {"estimate_ms": "900", "left_ms": "610"}
    assert refused.value.retry_delay_s == pytest.approx(0.29)


def test_a_deadline_below_the_work_itself_is_not_worth_a_retry():
    with pytest.raises(DeadlineTooShort) as refused:
        drive().admit(step_count=3, deadline_s=0.2)
    assert refused.value.retry_delay_s is None


def test_a_deadline_keeps_batches_small_but_for_the_step_that_runs():
    driver = drive()
    driver.denoising(step_count=100, tier="pro", row_count=2)
    driver.admit(step_count=3, deadline_s=0.41, tier="other")
    with pytest.raises(DeadlineTooShort) as refused:
        driver.admit(step_count=3, deadline_s=0.39, tier="another")
    # Half of the step of two rows that runs, and its own three of 0.1 s.
    assert refused.value.metadata["estimate_ms"] == "400"


def test_an_estimate_that_keeps_all_of_a_tier_out_is_put_to_the_test():
    """Else it would do so for ever: whoever is refused teaches nothing."""
    driver = drive()
    driver.denoising(step_count=100, tier="pro", row_count=2)

    def is_refused() -> bool:
        try:
            driver.admit(step_count=3, deadline_s=0.39, tier="free")
        except DeadlineTooShort:
            return True
        return False

    assert [is_refused() for _ in range(5)] == [True] * 4 + [False]
    # As long as that one is inside, it is the test.
    assert all(is_refused() for _ in range(10))


def test_steps_leave_time_to_finish():
    light = {"postprocessing": 0.2, "text_encoding": 5.0}
    driver = drive(costs={"m": InitialCosts({1: 0.1, 8: 0.8}, light, 64 * 64)})
    work = driver.admit().work
    assert driver.scheduler.finish_reserve_s(work) == pytest.approx(1.5 * 0.2)


@pytest.mark.parametrize(
    ("took_s", "finished", "wider"),
    [(0.31, True, True), (0.29, True, False), (0.01, False, True)],
    ids=["longer than kept", "shorter", "late"],
)
def test_the_time_to_finish_follows_what_finishing_takes(took_s, finished, wider):
    driver = drive(costs=FINISHING_COSTS)
    grant = driver.denoising(deadline_s=1.0 + took_s)
    driver.now_s = 1.0
    driver.scheduler.note_steps(grant, 3)
    driver.end(grant)
    driver.scheduler.leave(grant.task.picture.ticket, 1.0 + took_s, finished=finished)
    assert (driver.scheduler.finish_reserve_s(grant.task.work) > 0.3) == wider


def test_what_ended_before_its_last_step_says_nothing_of_finishing():
    driver = drive(costs=FINISHING_COSTS)
    grant = driver.denoising(deadline_s=1.0)
    driver.scheduler.note_steps(grant, 2)
    driver.end(grant)
    driver.scheduler.leave(grant.task.picture.ticket, 1.0, finished=False)
    assert driver.scheduler.finish_reserve_s(grant.task.work) == pytest.approx(1.5 * 0.2)


def test_one_picture_in_four_takes_longer_to_finish_than_is_kept():
    slack, random, longer = FinishSlack(1.5), Random(1), 0
    for _ in range(4000):
        took_s = random.uniform(1.0, 5.0)
        longer += took_s > slack.factor
        slack.observe(1.0, took_s, finished=True)
    assert longer / 4000 == pytest.approx(0.24, abs=0.02)


@pytest.mark.parametrize(("took_s", "factor"), [(0.1, 1.0), (100.0, 6.0)])
def test_the_time_to_finish_stays_within_bounds(took_s, factor):
    slack = FinishSlack(1.5)
    for _ in range(500):
        slack.observe(1.0, took_s, finished=True)
    assert slack.factor == factor


def test_an_idle_mesh_takes_what_it_could_do_at_best():
    driver = drive()
    costs, work = driver.scheduler.costs, driver.admit(step_count=3).work
    for _ in range(100):
        costs.observe_steps(work, 3.0, 1.0)
    driver.admit(step_count=3)
    with pytest.raises(DeadlineTooShort):
        driver.admit(step_count=3, deadline_s=1.0)
    idle = drive()
    idle.scheduler.costs = costs
    # The estimate is 3 s by now; refusing for ever would never show that it is too high.
    idle.admit(step_count=3, deadline_s=1.0)


def test_a_model_that_nobody_has_measured_is_taken():
    driver = drive(costs={}, max_wait_s=0.001)
    for _ in range(10):
        driver.admit(deadline_s=0.001)


def test_a_tier_passes_the_work_of_another_by_its_share():
    driver = drive()
    for _ in range(10):
        driver.admit(tier="free", step_count=3)
    # 3 s of Free work wait; Pro has four fifths of the device and nothing waiting.
    driver.admit(tier="pro", step_count=3, deadline_s=0.4)
    with pytest.raises(DeadlineTooShort):
        driver.admit(tier="free", step_count=3, deadline_s=3.2)


def test_done_steps_are_no_longer_ahead():
    driver = drive()
    grant = driver.denoising(step_count=4)
    driver.scheduler.note_steps(grant, 2)
    assert driver.scheduler.backlog.tier_seconds["free"] == pytest.approx(0.2)
    driver.end(grant)
    driver.scheduler.leave(grant.task.picture.ticket, 0.0, finished=True)
    assert driver.scheduler.backlog.tier_seconds["free"] == pytest.approx(0.0)
    assert driver.scheduler.backlog.waiting == 0


def test_costs_follow_what_is_observed():
    costs, work = Costs(), drive().admit(step_count=10, row_count=2).work
    # A step takes 0.2 s and 0.1 s a row more; two of the rows are this picture's.
    for rows in (2, 4, 8, 3) * 50:
        costs.observe_steps(work, 10 * 2 * (0.2 / rows + 0.1), rows)
        costs.observe_call("text_encoding", work, 0.5)
    assert costs.steps_s(work, 8) == pytest.approx(10 * 1.0, rel=0.05)
    assert costs.steps_s(work, 2) == pytest.approx(10 * 0.4, rel=0.05)
    assert costs.picture_seconds(work, 8) == pytest.approx(20 * 0.125, rel=0.05)
    assert costs.light_s(work) == pytest.approx(0.5)
    assert costs.least_s(work) == pytest.approx(20 * 0.125, rel=0.05)


def test_batches_of_one_size_say_nothing_of_others():
    costs, work = Costs(), drive().admit(step_count=10).work
    for _ in range(100):
        costs.observe_steps(work, 1.0, 1.0)
    assert costs.steps_s(work, 1) == pytest.approx(1.0, rel=0.01)
    assert costs.steps_s(work, 8) == pytest.approx(8.0, rel=0.01)


def test_one_in_twelve_of_those_let_in_may_be_late():
    accuracy, random, late = Accuracy(), Random(1), 0
    for _ in range(4000):
        # It takes what it may be told or up to twice that, and its deadline is what it is told.
        took_s = random.uniform(0.0, 2.0)
        finished = took_s < accuracy.factor
        accuracy.observe(1.0, min(took_s, accuracy.factor), finished=finished)
        late += not finished
    assert late / 4000 == pytest.approx(1 / 12, abs=0.02)


def test_estimates_stay_where_nobody_is_late_and_all_take_longer_than_told():
    accuracy = Accuracy()
    for _ in range(100):
        accuracy.observe(1.0, 1.5)
    assert accuracy.factor == 1.0


@pytest.mark.parametrize(("finished", "factor"), [(True, 0.25), (False, 3.0)])
def test_estimates_are_believed_to_a_degree(finished, factor):
    accuracy = Accuracy()
    for _ in range(500):
        accuracy.observe(1.0, 0.01, finished=finished)
    assert accuracy.factor == factor


# A caller's own clock ends its call before ours does: by what the call was on the way.
@pytest.mark.parametrize("ended_s", [5.0, 4.97])
def test_what_ran_out_of_time_teaches_and_what_was_cancelled_does_not(ended_s):
    driver = drive()
    scheduler = driver.scheduler
    ticket = driver.admit(deadline_s=5.0)
    before = scheduler.estimate(ticket.work).soonest_s
    scheduler.leave(driver.admit(), 50.0, finished=False)
    scheduler.leave(driver.admit(deadline_s=5.0), 4.9, finished=False)
    assert scheduler.estimate(ticket.work).soonest_s == pytest.approx(before)
    scheduler.leave(ticket, ended_s, finished=False)
    driver.admit()
    assert scheduler.estimate(ticket.work).soonest_s > before
