"""The load generator with a client that serves from memory, in time that passes for real."""

import asyncio

import pytest
from peers.client import Generator, carry_out
from peers.contender import Refused, Reply
from peers.load import Ask
from peers.outcomes import Ending


class Scripted:
    """Answers each prompt as it says."""

    def __init__(self):
        self.under_way = self.most = self.refusals = 0
        self.cancelled = []

    async def picture(self, ask, *, previews=False):
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            return await self._answer(ask)
        except asyncio.CancelledError:
            self.cancelled.append(ask.prompt)
            raise
        finally:
            self.under_way -= 1

    async def _answer(self, ask):
        if ask.prompt == "slow":
            await asyncio.sleep(30)
        if ask.prompt == "broken":
            raise ValueError("no")
        if ask.prompt == "busy" and self.refusals < 2:
            self.refusals += 1
            raise Refused("later")
        await asyncio.sleep(0.01)
        return Reply(ask.prompt.encode())


def ask(prompt="a cat", **fields):
    return Ask(fields.pop("at_s", 0.0), "free", prompt, 1, **fields)


async def test_every_request_has_one_outcome_in_the_order_of_the_plan():
    client = Scripted()
    asks = [ask(at_s=0.05), ask("broken"), ask("busy"), ask("slow", patience_s=0.05)]
    outcomes = await Generator(client).open_loop(asks)
    assert [one.ending for one in outcomes] == [
        Ending.FINISHED,
        Ending.FAILED,
        Ending.REFUSED,
        Ending.EXPIRED,
    ]
    assert outcomes[0].started_s >= 0.05
    assert outcomes[1].detail == "ValueError: no"
    assert client.cancelled == ["slow"]


async def test_a_cancelled_request_is_cancelled_at_the_client():
    client = Scripted()
    (outcome,) = await Generator(client).open_loop([ask("slow", cancel_after_s=0.02)])
    assert outcome.ending is Ending.CANCELLED
    assert client.cancelled == ["slow"]


async def test_a_closed_loop_keeps_so_many_under_way_and_comes_again_when_refused():
    client = Scripted()
    outcomes = await Generator(client).closed_loop([ask("busy"), *[ask()] * 9], concurrency=3)
    assert [one.ending for one in outcomes] == [Ending.FINISHED] * 10
    assert (client.most, client.refusals) == (3, 2)


@pytest.mark.parametrize(("keep", "expected"), [(True, b"a cat"), (False, b"")])
async def test_pictures_are_kept_where_the_plan_says_so(keep, expected):
    fields = {"at_s": 0.0, "tier": "free", "prompt": "a cat", "seed": 1}
    (outcome,) = await carry_out(Scripted(), {"asks": [fields], "keep": keep})
    assert outcome.picture == expected
