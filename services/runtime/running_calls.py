"""The calls that a server answers now, and how they end when it cannot wait for them any longer.

gRPC cancels what outlasts the grace of a stopping server. Its callers then read "Cancelling all
calls", with no details and no hint when to call again, and the server's own trace and log say
CANCELLED, as if the callers had left (measured with grpcio 1.85.1). So calls are ended here first.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any

from .errors import StageUnavailable

_RETRY_DELAY_S = 1.0


class RunningCalls:
    """Knows the task of every call."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ended: set[asyncio.Task[Any]] = set()
        self._begun_count = 0
        self._none = asyncio.Event()
        self._none.set()

    async def run(self, work: Awaitable[Any]) -> Any:
        """Returns the result of `work`, which answers the call of this task.

        Raises:
            StageUnavailable: the server stops before the call is done.
        """
        task = asyncio.current_task()
        assert task is not None, "a handler runs in a task"
        self._tasks.add(task)
        self._begun_count += 1
        self._none.clear()
        try:
            return await work
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            # What is left to do is to tell the caller, which takes further awaits.
            task.uncancel()
            text = "the service is stopping and could not finish this call; call again"
            raise StageUnavailable(text, retry_delay_s=_RETRY_DELAY_S) from None
        finally:
            self._tasks.discard(task)
            self._ended.discard(task)
            if not self._tasks:
                self._none.set()

    async def idle(self, seconds: float) -> None:
        """Returns once no call has run for so long."""
        begun_count = -1
        while begun_count != self._begun_count:
            await self._none.wait()
            begun_count = self._begun_count
            await asyncio.sleep(seconds)

    def end(self) -> int:
        """Ends every call with `StageUnavailable`, its work cancelled; returns how many."""
        tasks = list(self._tasks - self._ended)
        self._ended.update(tasks)
        for task in tasks:
            task.cancel()
        return len(tasks)
