"""Run: pytest tests/unit/test_admission.py"""

import asyncio

import pytest

from sangsang.orchestrator.admission import Admission
from sangsang.services.runtime.errors import Overloaded


async def hold(admission: Admission, entered: list[int], name: int, release: asyncio.Event):
    async with admission.slot():
        entered.append(name)
        await release.wait()


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_runs_in_the_order_of_arrival():
    admission = Admission(max_running=1, max_queued=10)
    entered: list[int] = []
    releases = [asyncio.Event() for _ in range(3)]
    tasks = [
        asyncio.create_task(hold(admission, entered, i, release))
        for i, release in enumerate(releases)
    ]
    await settle()
    assert entered == [0]
    assert admission.queued_count == 2
    for release in releases:
        release.set()
    await asyncio.gather(*tasks)
    assert entered == [0, 1, 2]
    assert admission.running_count == 0


async def test_one_more_than_the_queue_holds_is_refused():
    admission = Admission(max_running=1, max_queued=1)
    release = asyncio.Event()
    tasks = [asyncio.create_task(hold(admission, [], i, release)) for i in range(2)]
    await settle()
    with pytest.raises(Overloaded) as refused:
        async with admission.slot():
            pass
    assert refused.value.retry_delay_s is not None
    assert refused.value.metadata == {"queued": "1", "limit": "1"}
    release.set()
    await asyncio.gather(*tasks)
    assert admission.check() == 0


async def test_cancelling_one_that_waits_leaves_its_neighbours_their_turn():
    admission = Admission(max_running=1, max_queued=10)
    entered: list[int] = []
    release = asyncio.Event()
    tasks = [asyncio.create_task(hold(admission, entered, i, release)) for i in range(3)]
    await settle()
    tasks[1].cancel()
    await settle()
    release.set()
    await asyncio.gather(tasks[0], tasks[2])
    assert entered == [0, 2]
    assert admission.running_count == 0


async def test_a_slot_handed_to_one_cancelled_in_the_same_moment_is_handed_on():
    admission = Admission(max_running=1, max_queued=10)
    entered: list[int] = []
    first, others = asyncio.Event(), asyncio.Event()
    holder = asyncio.create_task(hold(admission, entered, 0, first))
    await settle()
    waiting = [asyncio.create_task(hold(admission, entered, i, others)) for i in (1, 2)]
    await settle()
    first.set()
    # One turn of the loop: the holder releases, and hands its slot to the first that waits.
    while not holder.done():
        await asyncio.sleep(0)
    waiting[0].cancel()
    others.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert 2 in entered
    assert admission.running_count == 0
