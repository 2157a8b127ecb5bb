"""The load generator: a process of its own, told its plans by lines of JSON.

    python -m tests.benchmarks.peers.client MODULE ADDRESS MODEL_ID

Each line of stdin is a plan; each line of stdout what became of its requests.
"""

import asyncio
import base64
import importlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from .contender import Client, Refused, Reply
from .load import Ask
from .outcomes import Ending, Outcome

# What a request gets that names no patience: long enough for all, short enough to end.
LONGEST_S = 120.0


class Generator:
    """Sends requests and notes what becomes of them."""

    def __init__(self, client: Client, *, keep: bool = False, previews: bool = False) -> None:
        self._client = client
        self._keep = keep
        self._previews = previews
        self._began_s = time.perf_counter()

    async def open_loop(self, asks: Sequence[Ask]) -> list[Outcome]:
        """Returns the outcomes of requests that are each sent at their time."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._later(ask)) for ask in asks]
        return [task.result() for task in tasks]

    async def closed_loop(self, asks: Sequence[Ask], concurrency: int) -> list[Outcome]:
        """Returns the outcomes of requests of which so many are under way at any time."""
        outcomes: list[Outcome] = []
        rest = iter(asks)
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(self._one_by_one(rest, outcomes))
        return outcomes

    async def _one_by_one(self, rest: Iterator[Ask], outcomes: list[Outcome]) -> None:
        for ask in rest:
            outcomes.append(await self.one(ask))

    async def _later(self, ask: Ask) -> Outcome:
        await asyncio.sleep(max(self._began_s + ask.at_s - time.perf_counter(), 0.0))
        return await self.one(ask)

    async def one(self, ask: Ask) -> Outcome:
        """Returns the outcome of one request that is sent now."""
        started_s = time.perf_counter()
        ending, reply, detail = await self._ended(ask)
        return Outcome(
            tier=ask.tier,
            ending=ending,
            started_s=started_s - self._began_s,
            seconds=time.perf_counter() - started_s,
            preview_s=reply.preview_s,
            picture=reply.picture if self._keep else b"",
            detail=detail,
        )

    async def _ended(self, ask: Ask) -> tuple[Ending, Reply, str]:
        call = asyncio.ensure_future(self._client.picture(ask, previews=self._previews))
        none = Reply(b"")
        limit_s = ask.patience_s or LONGEST_S
        until_s = limit_s if ask.cancel_after_s is None else ask.cancel_after_s
        try:
            done, _ = await asyncio.wait([call], timeout=until_s)
            if not done:
                call.cancel()
                await asyncio.wait([call])
                given_up = ask.cancel_after_s is not None
                return (Ending.CANCELLED if given_up else Ending.EXPIRED), none, ""
            return Ending.FINISHED, call.result(), ""
        except (TimeoutError, asyncio.CancelledError):
            return Ending.EXPIRED, none, ""
        except Refused as error:
            return Ending.REFUSED, none, str(error)[:200]
        except Exception as error:
            return Ending.FAILED, none, f"{type(error).__name__}: {error}"[:300]


async def carry_out(client: Client, plan: dict[str, Any]) -> list[Outcome]:
    """Returns the outcomes of a plan: `asks`, and `concurrency` for a closed loop."""
    generator = Generator(
        client, keep=plan.get("keep", False), previews=plan.get("previews", False)
    )
    asks = [Ask(**fields) for fields in plan["asks"]]
    concurrency = plan.get("concurrency", 0)
    if concurrency:
        return await generator.closed_loop(asks, concurrency)
    return await generator.open_loop(asks)


def to_line(outcomes: Sequence[Outcome]) -> str:
    """Returns outcomes as a line of JSON."""
    fields = [asdict(one) for one in outcomes]
    for one in fields:
        one["picture"] = base64.b64encode(one["picture"]).decode()
    return json.dumps(fields)


def from_line(line: str) -> list[Outcome]:
    """Returns the outcomes that `to_line` wrote."""
    return [
        Outcome(
            **{
                **fields,
                "ending": Ending(fields["ending"]),
                "picture": base64.b64decode(fields["picture"]),
            }
        )
        for fields in json.loads(line)
    ]


async def serve(module: str, address: str, model_id: str) -> None:
    """Carries out the plans of stdin until it ends."""
    loop = asyncio.get_running_loop()
    client = importlib.import_module(f".{module}", __package__).connect(address, model_id)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        outcomes = await carry_out(client, json.loads(line))
        print(to_line(outcomes), flush=True)
    await client.close()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:4]))
