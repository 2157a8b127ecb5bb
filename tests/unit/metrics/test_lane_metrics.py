"""Lanes and requests, as the orchestrator's metrics tell of them. Run: pytest tests/unit/metrics"""

import asyncio

import pytest
from plans import make_picture, make_plan
from scheduler_driver import make_devices, make_work
from scraping import Values

from sangsang.orchestrator.dispatcher import Dispatcher
from sangsang.orchestrator.lane_metrics import LaneMetrics
from sangsang.orchestrator.progress import ProgressFeed
from sangsang.orchestrator.replica_health import ReplicaHealth
from sangsang.orchestrator.request_metrics import RequestMetrics
from sangsang.orchestrator.scheduling.admission import Backlog
from sangsang.orchestrator.scheduling.scheduler import Policy, Scheduler
from sangsang.orchestrator.scheduling.work import Phase, Picture, Ticket
from sangsang.services.runtime.deadlines import Deadline
from sangsang.services.runtime.errors import DeadlinePassed, Overloaded, StageFailed
from sangsang.services.runtime.metrics import declarations
from sangsang.services.runtime.metrics.registry import Metrics


@pytest.fixture
def metrics():
    return Metrics("orchestrator")


def make_dispatcher(metrics, lanes=1, **policy):
    devices = make_devices(1, lanes=lanes)
    observer = LaneMetrics(metrics, devices, ("free", "pro"))
    scheduler = Scheduler(devices, policy=Policy(**policy))
    return Dispatcher(scheduler, observer=observer)


async def hold(dispatcher, picture, stage, until):
    async with dispatcher.lane(picture, stage):
        await until.wait()


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_holds_a_lane_and_who_waits_for_it(metrics):
    dispatcher, end = make_dispatcher(metrics, light_calls=1), asyncio.Event()
    first, second = (dispatcher.admit(make_work()).pictures[0] for _ in range(2))
    holding = asyncio.create_task(hold(dispatcher, first, "text_encoding", end))
    waiting = asyncio.create_task(hold(dispatcher, second, "text_encoding", end))
    await asyncio.sleep(0.05)
    values = Values(metrics.text())
    place = {"device": "device0", "lane": "0", "stage": "text_encoding", "model": "m"}
    assert values.of(declarations.DEVICE_LANES, device="device0") == 1
    assert values.of(declarations.LANE_CALLS, **place) == 1
    assert values.of(declarations.LANE_ROWS, **place) == 1
    assert values.by(declarations.QUEUE_DEPTH, "stage", "tier") == {("text_encoding", "free"): 1}
    assert values.of(declarations.QUEUE_DEPTH, stage="diffusion", tier="pro") == 0
    assert 0.03 < values.of(declarations.LANE_BUSY_SECONDS, stage="text_encoding") < 5
    end.set()
    await asyncio.gather(holding, waiting)
    values = Values(metrics.text())
    assert values.by(declarations.LANE_CALLS, "lane") == {}
    assert values.by(declarations.QUEUE_DEPTH, "stage") == {}
    assert values.of(declarations.ADMISSION_WAIT_SECONDS, "_count", tier="free") == 2
    assert values.of(declarations.ADMISSION_WAIT_SECONDS, "_sum", tier="free") > 0.03
    assert values.by(declarations.LANE_WAIT_SECONDS, "stage", part="_count") == {}
    assert values.of(declarations.STAGE_SECONDS, "_count", stage="text_encoding", model="m") == 2


async def test_a_later_call_of_a_picture_waits_for_a_lane_and_not_for_admission(metrics):
    dispatcher, end = make_dispatcher(metrics), asyncio.Event()
    end.set()
    picture = dispatcher.admit(make_work()).pictures[0]
    await hold(dispatcher, picture, "text_encoding", end)
    await hold(dispatcher, picture, "diffusion", end)
    values = Values(metrics.text())
    assert values.of(declarations.ADMISSION_WAIT_SECONDS, "_count") == 1
    assert values.by(declarations.LANE_WAIT_SECONDS, "stage", part="_count") == {("diffusion",): 1}


async def test_a_call_that_fails_or_leaves_gives_back_all_that_it_had(metrics):
    dispatcher, end = make_dispatcher(metrics, light_calls=1), asyncio.Event()
    pictures = [dispatcher.admit(make_work()).pictures[0] for _ in range(3)]
    calls = [asyncio.create_task(hold(dispatcher, one, "text_encoding", end)) for one in pictures]
    await settle()
    # The second leaves while it waits, the first while it holds the lane.
    calls[1].cancel()
    await settle()
    calls[0].cancel()
    await settle()
    values = Values(metrics.text())
    assert values.by(declarations.QUEUE_DEPTH, "stage") == {}
    assert values.by(declarations.LANE_CALLS, "stage") == {("text_encoding",): 1}
    end.set()
    await asyncio.gather(*calls, return_exceptions=True)
    values = Values(metrics.text())
    assert values.by(declarations.LANE_CALLS, "stage") == {}
    assert values.of(declarations.STAGE_SECONDS, "_count") == 1, "two had no answer"


def end_of(error=None, *, cancelled=False):
    """A task that has ended."""
    task = asyncio.get_running_loop().create_future()
    if cancelled:
        task.cancel()
    elif error is not None:
        task.set_exception(error)
    else:
        task.set_result(None)
    return task


def ticket_of(plan, *, started=True):
    ticket = Ticket(make_work(tier=plan.tier), 0.0)
    phase = Phase.DENOISING if started else Phase.WAITING
    ticket.pictures = tuple(Picture(ticket, 0.0, phase) for _ in plan.seeds)
    return ticket


def feed_of(count):
    feed = ProgressFeed()
    for index in range(count):
        feed.add_picture(make_picture(index))
    return feed


@pytest.mark.parametrize(
    ("error", "cancelled", "at_s", "finished", "expected"),
    [
        (None, False, None, 2, {"finished": 2}),
        (StageFailed("broken"), False, None, 1, {"finished": 1, "failed": 1}),
        (DeadlinePassed("late"), False, 0.0, 1, {"finished": 1, "late": 1}),
        (None, True, None, 0, {"left": 2}),
        (None, True, 1e12, 0, {"left": 2}),
        (None, True, 0.0, 0, {"late": 2}),
    ],
    ids=["finished", "failed", "late", "left", "left in time", "given up at its deadline"],
)
async def test_what_becomes_of_pictures(metrics, error, cancelled, at_s, finished, expected):
    requests, plan = RequestMetrics(metrics, Backlog()), make_plan(seeds=(1, 2))
    task = end_of(error, cancelled=cancelled)
    requests.note_admission(plan)
    requests.note_end(plan, ticket_of(plan), Deadline(at_s), feed_of(finished), task)
    values = Values(metrics.text())
    found = values.by(declarations.PICTURES, "outcome")
    assert found == {(outcome,): count for outcome, count in expected.items()}
    assert values.of(declarations.ADMISSIONS, tier=plan.tier) == 1
    late = 1.0 if "late" in expected else 0.0
    assert values.of(declarations.DEADLINE_MISSES, tier=plan.tier, phase="running") == late
    whole = expected == {"finished": 2}
    assert values.of(declarations.PICTURES_IN_TIME, tier=plan.tier) == (2 if whole else 0)
    assert len(values.by(declarations.REQUEST_SECONDS, "tier", part="_count")) == whole


async def test_who_was_late_before_it_began_was_late_waiting(metrics):
    requests, plan = RequestMetrics(metrics, Backlog()), make_plan()
    ticket = ticket_of(plan, started=False)
    requests.note_end(plan, ticket, Deadline(0.0), feed_of(0), end_of(cancelled=True))
    found = Values(metrics.text()).by(declarations.DEADLINE_MISSES, "phase")
    assert found == {("waiting",): 1}


def test_refusals_have_their_reasons_and_the_backlog_is_read(metrics):
    backlog = Backlog(admitted=5, waiting=2, tier_seconds={"pro": 1.5})
    requests = RequestMetrics(metrics, backlog)
    before = Values(metrics.text())
    assert before.of(declarations.REFUSALS, tier="pro", reason="QUEUE_FULL") == 0
    requests.note_refusal(make_plan(), Overloaded("full"))
    values = Values(metrics.text())
    assert values.by(declarations.REFUSALS, "tier", "reason") == {("pro", "QUEUE_FULL"): 1}
    assert values.of(declarations.REQUESTS_WAITING) == 2
    assert values.of(declarations.REQUESTS_RUNNING) == 3
    assert values.of(declarations.BACKLOG_SECONDS, tier="pro") == 1.5


def test_a_replica_that_goes_is_counted_each_time_and_comes_back():
    replicas = {("diffusion", "a:1"): None, ("diffusion", "b:1"): None}
    told = []
    health = ReplicaHealth(replicas, on_change=lambda *change: told.append(change), on_silence=None)
    assert health.usable_counts == {"diffusion": 2}
    for _ in range(2):
        for answers in (False, True):
            health._answers["diffusion", "a:1"] = answers
            health._tell(("diffusion", "a:1"))
            assert health.usable_counts == {"diffusion": 1 + answers}
    assert health.loss_counts == {"diffusion": 2}
    assert len(told) == 4
