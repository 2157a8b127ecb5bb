"""The load generator: a process of its own, told its plans by lines of JSON.

Started by `LineProcess` with a client's module, an address and the model's ID. Each line of stdin
is a plan; each line of stdout what became of its requests.
"""

import asyncio
import importlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from sangsang.services.runtime.engines.timed_device import _HEAD, device_path

from .contender import Client, Refused, Reply
from .lines import READY, to_line
from .load import Ask
from .outcomes import Ending, Outcome

# What a request gets that names no patience: long enough for all, short enough to end.
LONGEST_S = 120.0
_AGAIN_AFTER_S = 0.01
# A device that begins nothing for so long is at rest.
_REST_S = 0.3


class Generator:
    """Sends requests and notes what becomes of them."""

    def __init__(
        self,
        client: Client,
        *,
        keep: bool = False,
        previews: bool = False,
        device: str = "",
    ) -> None:
        self._client = client
        self._device = device
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
            give_up_s = time.perf_counter() + LONGEST_S
            # Whoever has nothing else to do comes again.
            while (outcome := await self.one(ask)).ending is Ending.REFUSED:
                if time.perf_counter() > give_up_s:
                    break
                await asyncio.sleep(_AGAIN_AFTER_S)
            outcomes.append(outcome)

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
                started = executions(self._device)
                await asyncio.wait([call])
                if ask.cancel_after_s is None:
                    return Ending.EXPIRED, none, ""
                return Ending.CANCELLED, none, await self._started_since(started)
            return Ending.FINISHED, call.result(), ""
        except (TimeoutError, asyncio.CancelledError):
            return Ending.EXPIRED, none, ""
        except Refused as error:
            return Ending.REFUSED, none, str(error)[:200]
        except Exception as error:
            return Ending.FAILED, none, f"{type(error).__name__}: {error}"[:300]

    async def _started_since(self, before: int) -> str:
        """Returns how many executions a device began since then, when it is at rest."""
        if not self._device:
            return ""
        seen, now = -1, executions(self._device)
        while seen != now:
            await asyncio.sleep(_REST_S)
            seen, now = now, executions(self._device)
        return str(now - before)


def executions(device: str) -> int:
    """Returns how many executions a timed device has begun; 0 without a name."""
    if not device:
        return 0
    return _HEAD.unpack_from(device_path(device).read_bytes())[2]


async def carry_out(client: Client, plan: dict[str, Any]) -> list[Outcome]:
    """Returns the outcomes of a plan.

    It has `asks`; `concurrency` for a closed loop; whether to `keep` the pictures and to want
    `previews`; and a timed `device` whose executions after a cancel are counted.
    """
    generator = Generator(
        client,
        keep=plan.get("keep", False),
        previews=plan.get("previews", False),
        device=plan.get("device", ""),
    )
    asks = [Ask(**fields) for fields in plan["asks"]]
    concurrency = plan.get("concurrency", 0)
    if concurrency:
        return await generator.closed_loop(asks, concurrency)
    return await generator.open_loop(asks)


async def serve(module: str, address: str, model_id: str) -> None:
    """Carries out the plans of stdin until it ends."""
    loop = asyncio.get_running_loop()
    client = importlib.import_module(f".{module}", __package__).connect(address, model_id)
    print(READY, flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        outcomes = await carry_out(client, json.loads(line))
        print(to_line(outcomes), flush=True)
    await client.close()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:4]))
