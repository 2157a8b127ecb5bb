"""Engine calls that hang. Run: pytest tests/unit/test_watchdog.py"""

import asyncio
import threading

import pytest

from sangsang.services.runtime.errors import StageLost, StageUnavailable
from sangsang.services.runtime.watchdog import HangLimits, Watchdog

LIMITS = HangLimits(factor=10.0, least_s=2.0, unknown_s=60.0)


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watchdog(clock):
    return Watchdog(LIMITS, clock=clock)


def run(watchdog, clock, kind, seconds, *, done=True):
    """Runs a call with a tick every half second; the seconds after which it was found to hang."""
    watchdog.begin(kind)
    passed_s = 0.0
    while passed_s < seconds:
        step_s = min(0.5, seconds - passed_s)
        clock.now_s += step_s
        passed_s += step_s
        if watchdog.tick():
            return passed_s
    watchdog.end(done=done)
    return None


def test_a_call_may_take_a_multiple_of_what_its_kind_usually_does(watchdog, clock):
    assert run(watchdog, clock, "a", 1.0) is None
    assert run(watchdog, clock, "a", 9.9) is None
    assert 10 < run(watchdog, clock, "a", 100.0) < 30


def test_a_quick_kind_has_the_least_time_and_an_unknown_one_more(watchdog, clock):
    assert run(watchdog, clock, "a", 0.001) is None
    assert run(watchdog, clock, "b", 50.0) is None
    assert run(watchdog, clock, "a", 100.0) == 2.5
    assert run(watchdog, clock, "c", 100.0) == 60.5


def test_a_call_that_failed_tells_nothing_of_its_kind(watchdog, clock):
    assert run(watchdog, clock, "a", 0.001, done=False) is None
    assert run(watchdog, clock, "a", 50.0) is None


def test_a_process_that_was_stopped_and_goes_on_does_not_hang(watchdog, clock):
    run(watchdog, clock, "a", 0.001)
    watchdog.begin("a")
    clock.now_s += 3600.0
    assert watchdog.tick() is None
    watchdog.end(done=True)


def test_a_factor_of_nothing_watches_nothing(clock):
    watchdog = Watchdog(HangLimits(factor=0.0), clock=clock)
    assert run(watchdog, clock, "a", 10_000.0) is None


def test_what_runs_between_two_ticks_is_not_held_against_the_next(watchdog, clock):
    run(watchdog, clock, "a", 0.001)
    for _ in range(100):
        watchdog.begin("a")
        clock.now_s += 0.4
        assert watchdog.tick() is None
        watchdog.end(done=True)


async def test_a_hang_is_told_to_its_caller_to_those_who_wait_and_to_those_who_come(worker, gate):
    fatal = asyncio.Event()
    worker.watch(HangLimits(least_s=0.1, unknown_s=0.1), fatal.set)
    assert await worker.run(lambda: 7, kind="a") == 7
    hanging = asyncio.create_task(worker.run(gate.wait, kind="a"))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(worker.run(lambda: 8, kind="a"))
    async with asyncio.timeout(10):
        await fatal.wait()
        with pytest.raises(StageLost, match="engine"):
            await hanging
        with pytest.raises(StageUnavailable) as failed:
            await waiting
        assert not isinstance(failed.value, StageLost), "it had not begun"
        with pytest.raises(StageUnavailable):
            await worker.run(lambda: 9, kind="a")


async def test_a_hang_that_nobody_waits_for_any_more_is_found_too(worker, gate):
    fatal = asyncio.Event()
    worker.watch(HangLimits(least_s=0.1, unknown_s=0.1), fatal.set)
    started = threading.Event()

    def hang():
        started.set()
        gate.wait()

    hanging = asyncio.create_task(worker.run(hang, kind="a"))
    while not started.is_set():
        await asyncio.sleep(0.001)
    hanging.cancel()
    waiting = asyncio.create_task(worker.run(lambda: 8, kind="a"))
    async with asyncio.timeout(10):
        await fatal.wait()
        with pytest.raises(StageUnavailable) as failed:
            await waiting
        assert not isinstance(failed.value, StageLost), "it is not to blame"


async def test_what_has_no_kind_may_take_its_time(worker, gate):
    fatal = asyncio.Event()
    worker.watch(HangLimits(least_s=0.02, unknown_s=0.02), fatal.set)
    loading = asyncio.create_task(worker.run(gate.wait))
    await asyncio.sleep(0.2)
    assert not fatal.is_set()
    gate.set()
    assert await loading
