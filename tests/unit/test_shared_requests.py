"""Calls that name a request that is known. Run: pytest tests/unit/test_shared_requests.py"""

import asyncio

import pytest
from plans import make_picture, make_plan, make_result

from sangsang.orchestrator.kept_results import KeepLimits
from sangsang.orchestrator.shared_requests import SharedRequests
from sangsang.orchestrator.stages import DenoiseStep
from sangsang.services.runtime.deadlines import set_time_left, time_left
from sangsang.services.runtime.errors import RequestIdReused, StageUnavailable


class Runs:
    """Starts requests that end when the test says how."""

    def __init__(self) -> None:
        self.plans = []
        self.feeds = []
        self.ends: list[asyncio.Future] = []
        self.times_left = []
        self.cancelled_count = 0

    def start(self, plan, feed):
        end = asyncio.get_running_loop().create_future()
        self.plans.append(plan)
        self.feeds.append(feed)
        self.ends.append(end)
        return asyncio.create_task(self._run(end))

    async def _run(self, end):
        try:
            return await end
        except asyncio.CancelledError:
            self.cancelled_count += 1
            raise
        finally:
            self.times_left.append(time_left())


@pytest.fixture
def runs():
    return Runs()


@pytest.fixture
def requests(runs):
    return SharedRequests(runs.start, KeepLimits())


def call(requests, plan=None, *, keep=True, time_left_s=None):
    async def run():
        set_time_left(time_left_s)
        async with requests.join(plan or make_plan(), keep=keep) as (shared, joined):
            return await shared.result(), joined

    return asyncio.create_task(run())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_second_caller_joins_and_gets_the_same(requests, runs):
    first, second = call(requests), call(requests)
    await settle()
    assert len(runs.plans) == 1
    result = make_result()
    runs.ends[0].set_result(result)
    assert await first == (result, False)
    assert await second == (result, True)


async def test_a_caller_who_comes_later_gets_what_was_kept(requests, runs):
    first = call(requests)
    await settle()
    runs.ends[0].set_result(make_result())
    result, _ = await first
    assert await call(requests) == (result, True)
    assert len(runs.plans) == 1
    assert requests.running_count == 0


async def test_what_nobody_can_ask_for_again_is_not_kept(requests, runs):
    first = call(requests, keep=False)
    await settle()
    runs.ends[0].set_result(make_result())
    await first
    call(requests).cancel()
    again = call(requests)
    await settle()
    assert len(runs.plans) == 2
    again.cancel()
    await asyncio.wait([again])


@pytest.mark.parametrize("running", [True, False])
async def test_an_id_with_another_spec_is_refused(requests, runs, running):
    first = call(requests)
    await settle()
    if not running:
        runs.ends[0].set_result(make_result())
        await first
    with pytest.raises(RequestIdReused):
        await call(requests, make_plan(fingerprint="another spec"))
    first.cancel()
    await asyncio.wait([first])


async def test_ids_are_the_tenants_own_and_their_spelling_does_not_matter(requests, runs):
    plan = make_plan()
    callers = [call(requests, make_plan(tenant=tenant)) for tenant in ("a", "b")]
    callers.append(call(requests, make_plan(tenant="a", request_id=plan.request_id.upper())))
    await settle()
    assert [plan.tenant for plan in runs.plans] == ["a", "b"]
    for end in runs.ends:
        end.set_result(make_result())
    await asyncio.gather(*callers)


async def test_one_of_two_who_leaves_stops_nothing_and_the_last_one_does(requests, runs):
    first, second = call(requests), call(requests)
    await settle()
    first.cancel()
    await asyncio.wait([first])
    assert runs.cancelled_count == 0
    second.cancel()
    await asyncio.wait([second])
    assert runs.cancelled_count == 1
    assert requests.running_count == 0


async def test_nobody_joins_what_is_being_stopped(requests, runs):
    first = call(requests)
    await settle()
    first.cancel()
    # Once for the caller to leave, before its request has stopped.
    await asyncio.sleep(0)
    second = call(requests)
    await settle()
    assert len(runs.plans) == 2
    runs.ends[1].set_result(make_result())
    assert (await second)[1] is False


async def test_a_failure_is_told_to_all_and_not_kept(requests, runs):
    first, second = call(requests), call(requests)
    await settle()
    runs.ends[0].set_exception(StageUnavailable("gone"))
    for caller in (first, second):
        with pytest.raises(StageUnavailable):
            await caller
    again = call(requests)
    await settle()
    assert len(runs.plans) == 2
    runs.ends[1].set_result(make_result())
    assert (await again)[1] is False


async def test_the_time_given_is_that_of_the_most_patient_caller(requests, runs):
    callers = [call(requests, time_left_s=seconds) for seconds in (10.0, 100.0, 50.0)]
    await settle()
    runs.ends[0].set_result(make_result())
    await asyncio.gather(*callers)
    assert 90 < runs.times_left[0] <= 100


async def test_a_caller_without_a_deadline_waits_for_ever(requests, runs):
    callers = [call(requests, time_left_s=seconds) for seconds in (10.0, None)]
    await settle()
    runs.ends[0].set_result(make_result())
    await asyncio.gather(*callers)
    assert runs.times_left == [None]


async def test_a_refusal_leaves_nothing_behind(runs):
    def refuse(plan, feed):
        raise StageUnavailable("full")

    requests = SharedRequests(refuse, KeepLimits())
    with pytest.raises(StageUnavailable):
        await call(requests)
    assert requests.running_count == 0


async def test_a_late_reader_begins_with_where_things_are(requests, runs):
    first = call(requests)
    await settle()
    feed = runs.feeds[0]
    for step in range(1, 4):
        feed.add_step(0, DenoiseStep(step, 4, None))
    feed.add_picture(make_picture(1))
    async with requests.join(make_plan(), keep=True) as (shared, _):
        events = shared.feed.events()
        assert (await anext(events)).step.completed_step_count == 3
        assert (await anext(events)).index == 1
        await events.aclose()
    first.cancel()
    await asyncio.wait([first])


async def test_a_reader_of_a_kept_result_gets_every_picture(requests, runs):
    plan = make_plan(seeds=(1, 2))
    first = call(requests, plan)
    await settle()
    runs.ends[0].set_result(make_result(plan))
    await first
    async with requests.join(plan, keep=True) as (shared, joined):
        assert joined
        assert [event.index async for event in shared.feed.events()] == [0, 1]
