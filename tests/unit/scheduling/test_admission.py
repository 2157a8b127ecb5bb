"""Who may come in. Run: pytest tests/unit/scheduling/test_admission.py"""

import pytest
from scheduler_driver import Driver, make_devices

from sangsang.orchestrator.scheduling.admission import AdmissionLimits
from sangsang.orchestrator.scheduling.costs import Costs, InitialCosts
from sangsang.orchestrator.scheduling.scheduler import Policy, Scheduler
from sangsang.services.runtime.errors import DeadlineTooShort, Overloaded, StageUnavailable

# A row of one step takes 0.1 s of the device, a step of a full batch 0.4 s, light calls nothing.
COSTS = {"m": InitialCosts(0.1, 0.4, {}, 64 * 64)}


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
    driver.admit(step_count=3, deadline_s=1.21)
    with pytest.raises(DeadlineTooShort) as refused:
        driver.admit(step_count=3, deadline_s=1.21)
    # 0.3 s ahead of it, and 1.2 s of its own.
    assert refused.value.metadata == {"estimate_ms": "1500", "left_ms": "1210"}
    assert refused.value.retry_delay_s == pytest.approx(0.3)


def test_a_deadline_below_the_work_itself_is_not_worth_a_retry():
    with pytest.raises(DeadlineTooShort) as refused:
        drive().admit(step_count=3, deadline_s=1.0)
    assert refused.value.retry_delay_s is None


def test_a_model_that_nobody_has_measured_is_taken():
    driver = drive(costs={}, max_wait_s=0.001)
    for _ in range(10):
        driver.admit(deadline_s=0.001)


def test_a_tier_passes_the_work_of_another_by_its_share():
    driver = drive()
    for _ in range(10):
        driver.admit(tier="free", step_count=3)
    # 3 s of Free work wait; Pro has four fifths of the device and nothing waiting.
    driver.admit(tier="pro", step_count=3, deadline_s=1.3)
    with pytest.raises(DeadlineTooShort):
        driver.admit(tier="free", step_count=3, deadline_s=1.3)


def test_done_steps_are_no_longer_ahead():
    driver = drive()
    grant = driver.denoising(step_count=4)
    driver.scheduler.note_steps(grant, 2)
    assert driver.scheduler.backlog.tier_seconds["free"] == pytest.approx(0.2)
    driver.end(grant)
    driver.scheduler.leave(grant.task.picture.ticket)
    assert driver.scheduler.backlog.tier_seconds["free"] == pytest.approx(0.0)
    assert driver.scheduler.backlog.waiting == 0


def test_without_a_replica_of_a_stage_nobody_comes_in():
    driver = drive()
    driver.scheduler.set_usable("postprocessing", "postprocessing0", usable=False)
    with pytest.raises(StageUnavailable, match="postprocessing"):
        driver.admit()


def test_costs_follow_what_is_observed():
    driver = drive()
    costs, work = driver.scheduler.costs, driver.admit(step_count=10, row_count=2).work
    for _ in range(100):
        costs.observe_steps(work, compute_s=4.0, duration_s=8.0)
        costs.observe_call("text_encoding", work, 0.5)
    assert costs.picture_seconds(work) == pytest.approx(4.0, rel=0.01)
    assert costs.latency_s(work) == pytest.approx(8.5, rel=0.01)
    assert costs.call_seconds("text_encoding", work) == pytest.approx(0.5, rel=0.01)
