"""Calls that wait for lanes. Run: pytest tests/unit/scheduling/test_dispatcher.py"""

import asyncio

import pytest
from scheduler_driver import make_devices, make_work

from sangsang.orchestrator.dispatcher import Dispatcher
from sangsang.orchestrator.scheduling.scheduler import Policy, Scheduler
from sangsang.services.runtime.errors import StageUnavailable


def make_dispatcher(count: int = 1, *, absence_s: float = 0.01, **policy) -> Dispatcher:
    policy = {"light_calls": 1, **policy}
    return Dispatcher(Scheduler(make_devices(count), policy=Policy(**policy)), absence_s=absence_s)


class Caller:
    """One call of a stage that ends when the test says so."""

    def __init__(self, dispatcher: Dispatcher, picture, stage="text_encoding", excluded=()) -> None:
        self.granted = asyncio.Event()
        self.release = asyncio.Event()
        self.task = asyncio.create_task(self._run(dispatcher, picture, stage, frozenset(excluded)))

    async def _run(self, dispatcher, picture, stage, excluded) -> str:
        async with dispatcher.lane(picture, stage, excluded) as grant:
            self.granted.set()
            await self.release.wait()
            return grant.address

    async def end(self) -> str:
        self.release.set()
        return await self.task


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def pictures(dispatcher: Dispatcher, count: int):
    return [dispatcher.admit(make_work()).pictures[0] for _ in range(count)]


async def test_a_lane_goes_from_hand_to_hand():
    dispatcher = make_dispatcher()
    callers = [Caller(dispatcher, picture) for picture in pictures(dispatcher, 3)]
    for caller in callers:
        await settle()
        assert caller.granted.is_set()
        later = callers[callers.index(caller) + 1 :]
        assert not any(other.granted.is_set() for other in later)
        await caller.end()


async def test_a_caller_who_leaves_while_waiting_holds_nothing():
    dispatcher = make_dispatcher()
    first, second, third = (Caller(dispatcher, picture) for picture in pictures(dispatcher, 3))
    await settle()
    second.task.cancel()
    await settle()
    await first.end()
    await settle()
    assert third.granted.is_set()
    await third.end()


async def test_a_caller_who_leaves_in_the_moment_of_its_turn_passes_it_on():
    dispatcher = make_dispatcher()
    first, second, third = (Caller(dispatcher, picture) for picture in pictures(dispatcher, 3))
    await settle()
    first.release.set()
    # Lets the first end, which grants the second, whose task has not run since.
    while not first.task.done():
        await asyncio.sleep(0)
    assert not second.granted.is_set()
    second.task.cancel()
    await settle()
    assert third.granted.is_set()
    await third.end()
    assert not any(device.row_count for device in dispatcher.scheduler.devices)


async def test_a_lane_that_comes_free_as_a_caller_leaves_is_not_lost():
    dispatcher = make_dispatcher()
    first, second, third = (Caller(dispatcher, picture) for picture in pictures(dispatcher, 3))
    await settle()
    # Both tasks run in the next round of the loop, the one that frees the lane first.
    first.release.set()
    second.task.cancel()
    await settle()
    assert third.granted.is_set()
    await third.end()
    assert [list(device.lanes) for device in dispatcher.scheduler.devices] == [[]]


async def test_a_call_that_fails_frees_its_lane():
    dispatcher = make_dispatcher()
    first, second = pictures(dispatcher, 2)
    with pytest.raises(ValueError, match="engine"):
        async with dispatcher.lane(first, "text_encoding"):
            raise ValueError("engine")
    caller = Caller(dispatcher, second)
    await settle()
    assert caller.granted.is_set()
    await caller.end()


async def test_a_call_waits_for_a_replica_to_come_back():
    dispatcher = make_dispatcher(absence_s=60)
    [picture] = pictures(dispatcher, 1)
    dispatcher.set_usable("text_encoding", "text_encoding0", usable=False)
    caller = Caller(dispatcher, picture)
    await settle()
    assert not caller.granted.is_set()
    dispatcher.set_usable("text_encoding", "text_encoding0", usable=True)
    await settle()
    assert caller.granted.is_set()
    await caller.end()


@pytest.mark.parametrize("waits_before", [True, False])
async def test_a_call_that_no_replica_comes_back_for_fails(waits_before):
    dispatcher = make_dispatcher(light_calls=1)
    first, second = pictures(dispatcher, 2)
    holder = Caller(dispatcher, first)
    await settle()
    if waits_before:
        caller = Caller(dispatcher, second)
        await settle()
    dispatcher.set_usable("text_encoding", "text_encoding0", usable=False)
    if not waits_before:
        caller = Caller(dispatcher, second)
    with pytest.raises(StageUnavailable, match="text_encoding"):
        await caller.task
    await holder.end()


async def test_a_call_is_not_made_again_where_it_failed():
    dispatcher = make_dispatcher(2)
    [picture] = pictures(dispatcher, 1)
    caller = Caller(dispatcher, picture, excluded={"text_encoding0"})
    assert await caller.end() == "text_encoding1"
    with pytest.raises(StageUnavailable):
        await Caller(dispatcher, picture, excluded={"text_encoding0", "text_encoding1"}).task


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def test_without_a_stage_requests_come_in_for_a_while_and_then_no_more():
    clock = Clock()
    dispatcher = Dispatcher(Scheduler(make_devices(1)), absence_s=5.0, clock=clock)
    dispatcher.set_usable("postprocessing", "postprocessing0", usable=False)
    clock.now_s += 4.9
    dispatcher.admit(make_work())
    clock.now_s += 0.1
    with pytest.raises(StageUnavailable, match="postprocessing"):
        dispatcher.admit(make_work())
    dispatcher.set_usable("postprocessing", "postprocessing0", usable=True)
    dispatcher.admit(make_work())


async def test_a_stage_with_another_replica_is_not_away():
    clock = Clock()
    dispatcher = Dispatcher(Scheduler(make_devices(2)), absence_s=5.0, clock=clock)
    dispatcher.set_usable("diffusion", "diffusion0", usable=False)
    clock.now_s += 60.0
    dispatcher.admit(make_work())


async def test_a_life_ends_when_its_replica_comes_back():
    dispatcher = make_dispatcher()
    first, second, third = pictures(dispatcher, 3)
    lives = []
    for picture in (first, second, third):
        async with dispatcher.lane(picture, "text_encoding") as grant:
            lives.append(dispatcher.life_of(grant))
        if picture is second:
            dispatcher.set_usable("text_encoding", "text_encoding0", usable=False)
            dispatcher.set_usable("text_encoding", "text_encoding0", usable=True)
    assert lives[0] == lives[1] != lives[2]


async def test_only_the_calls_of_a_silent_replica_are_told_and_only_while_they_run():
    dispatcher = make_dispatcher(2, light_calls=1)
    first, second = pictures(dispatcher, 2)
    told = []
    async with (
        dispatcher.lane(first, "text_encoding") as one,
        dispatcher.lane(second, "text_encoding") as other,
    ):
        assert one.address != other.address
        with dispatcher.told_of_silence(one, lambda: told.append("one")):
            with dispatcher.told_of_silence(other, lambda: told.append("other")):
                dispatcher.note_silence("text_encoding", one.address)
            dispatcher.note_silence("text_encoding", other.address)
        dispatcher.note_silence("text_encoding", one.address)
    assert told == ["one"]
