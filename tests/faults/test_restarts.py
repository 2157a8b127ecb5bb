"""Rolling restarts of every service under load.

Run: pytest tests/faults/test_restarts.py; SANGSANG_TEST_RESTART_ROUNDS=10 for as many rounds.
"""

import asyncio
import os
import signal

import pytest

ROUNDS = int(os.environ.get("SANGSANG_TEST_RESTART_ROUNDS", "2"))
STAGES = ("text_encoding", "preprocessing", "diffusion", "postprocessing")
# What goes at the same time: never both replicas of a stage.
WAVES = (STAGES, tuple(f"{stage}-2" for stage in STAGES), ("orchestrator",))


# Each round starts nine processes, which a busy machine takes a minute for.
@pytest.mark.timeout(200 + 100 * ROUNDS)
async def test_rolling_restarts_lose_nothing(pair):
    first_end = len(pair.ends)
    async with pair.load() as load:
        for _ in range(ROUNDS):
            for wave in WAVES:
                before = {name: pair.pid(name) for name in wave}
                for name in wave:
                    pair.kill(name, signal.SIGTERM)
                await asyncio.gather(*(pair.serves(n, besides=pid) for n, pid in before.items()))
                await load.more(12)
    assert load.failures == []
    load.check_pictures()
    ends = pair.ends[first_end:]
    assert len(ends) == ROUNDS * 9
    assert {end.code for end in ends} == {0}
