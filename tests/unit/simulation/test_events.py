"""The clock that jumps. Run: pytest tests/unit/simulation/test_events.py"""

from sangsang.orchestrator.simulation.events import Cancelled, EventLoop, Signal


def test_time_jumps_from_event_to_event_and_equals_keep_their_order():
    loop, seen = EventLoop(), []
    for time_s, name in ((2.0, "c"), (1.0, "a"), (1.0, "b")):
        loop.at(time_s, lambda name=name: seen.append((loop.now_s, name)))
    loop.run()
    assert seen == [(1.0, "a"), (1.0, "b"), (2.0, "c")]


def test_nothing_happens_before_now():
    loop, seen = EventLoop(), []
    loop.at(3.0, lambda: loop.at(1.0, lambda: seen.append(loop.now_s)))
    loop.run()
    assert seen == [3.0]


def test_a_process_gets_the_value_that_it_waited_for():
    loop, seen = EventLoop(), []
    signal = Signal(loop)

    async def wait():
        seen.append((await signal, loop.now_s))
        # It has happened, so there is nothing to wait for.
        seen.append((await signal, loop.now_s))

    loop.spawn(wait())
    loop.at(2.0, lambda: signal.set("value"))
    loop.run()
    assert seen == [("value", 2.0), ("value", 2.0)]


def test_a_cancelled_process_cleans_up_at_once_and_goes_no_further():
    loop, seen = EventLoop(), []

    async def wait():
        try:
            await loop.sleep(5.0)
            seen.append("went on")
        finally:
            seen.append(loop.now_s)

    process = loop.spawn(wait())
    loop.at(1.0, process.cancel)
    loop.at(2.0, process.cancel)
    loop.run()
    assert seen == [1.0]


def test_a_process_that_is_cancelled_at_the_moment_of_its_signal_does_not_go_on():
    loop, seen = EventLoop(), []
    signal = Signal(loop)

    async def wait():
        try:
            await signal
        except Cancelled:
            seen.append("cancelled")
            raise
        seen.append("went on")

    process = loop.spawn(wait())
    loop.at(1.0, lambda: (signal.set(None), process.cancel()))
    loop.run()
    assert seen == ["cancelled"]
