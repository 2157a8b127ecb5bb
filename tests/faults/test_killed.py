"""SIGKILL of each stage service under load. Run: pytest tests/faults/test_killed.py"""

import signal

import grpc
import pytest

CALLERS = 12
STAGES = ("text_encoding", "preprocessing", "diffusion", "postprocessing")


@pytest.mark.parametrize("stage", STAGES)
async def test_with_another_replica_no_call_fails(pair, stage):
    async with pair.load() as load:
        await load.more(12)
        before = pair.pid(stage)
        pair.kill(stage, signal.SIGKILL)
        await load.more(12)
        await pair.serves(stage, besides=before)
        await load.more(12)
    assert load.failures == []
    load.check_pictures()


@pytest.mark.parametrize("stage", STAGES)
async def test_without_one_only_those_in_flight_fail_and_it_works_again(single, stage):
    async with single.load(CALLERS) as load:
        await load.more(12)
        before = single.pid(stage)
        single.kill(stage, signal.SIGKILL)
        await single.serves(stage, besides=before)
        await load.more(12)
    assert {failure.code for failure in load.failures} <= {grpc.StatusCode.UNAVAILABLE}
    # One for each caller at most: a call that came later would have failed again and again.
    assert len(load.failures) <= CALLERS
    load.check_pictures()
