"""Run: pytest tests/unit/test_suspects.py"""

import asyncio

import pytest

from sangsang.orchestrator.quarantine import Quarantine
from sangsang.orchestrator.suspects import Suspects
from sangsang.services.runtime.errors import RequestQuarantined


def make_suspects(*fingerprints: str) -> Suspects:
    suspects = Suspects(Quarantine(), clock=lambda: 0.0)
    for fingerprint in fingerprints:
        suspects.blame(fingerprint, "a death")
    return suspects


async def most_at_once(suspects: Suspects, fingerprints: list[str], stage_of=lambda _: "diffusion"):
    """How many were in a stage at one moment."""
    inside, most = 0, 0

    async def go(fingerprint):
        nonlocal inside, most
        async with suspects.apart(fingerprint, stage_of(fingerprint)):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    await asyncio.gather(*map(go, fingerprints))
    return most


async def test_suspects_go_through_a_stage_one_at_a_time():
    assert await most_at_once(make_suspects("a", "b", "c"), ["a", "b", "c", "a"]) == 1


async def test_others_go_beside_them():
    assert await most_at_once(make_suspects("a"), ["a", "x", "y"]) == 3


async def test_each_stage_has_a_turn_of_its_own():
    stages = {"a": "diffusion", "b": "postprocessing"}
    assert await most_at_once(make_suspects("a", "b"), ["a", "b"], stages.__getitem__) == 2


async def test_one_that_leaves_while_it_waits_holds_nobody_up():
    suspects = make_suspects("a", "b")
    async with suspects.apart("a", "diffusion"):
        waiting = asyncio.create_task(most_at_once(suspects, ["b"]))
        await asyncio.sleep(0)
        waiting.cancel()
    async with asyncio.timeout(1):
        assert await most_at_once(suspects, ["a", "b"]) == 1


async def test_the_second_death_is_told_at_once():
    suspects = make_suspects("a")
    with pytest.raises(RequestQuarantined):
        suspects.blame("a", "another death")
    with pytest.raises(RequestQuarantined):
        suspects.check("a")


async def test_a_suspect_that_has_run_to_the_end_is_none_any_more():
    suspects = make_suspects("a", "b")
    suspects.forgive("a")
    assert await most_at_once(suspects, ["a", "b"]) == 2
