"""Who may start: a bounded number of requests runs, a bounded number waits, the rest is refused.

Requests wait here, before their tensors get big. A refusal is immediate and says when to come
back.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..services.runtime.errors import Overloaded

RETRY_DELAY_S = 1.0


class Admission:
    """First come, first served.

    Attributes:
        running_count: requests that run now.
    """

    def __init__(self, *, max_running: int, max_queued: int) -> None:
        self._max_running = max_running
        self._max_queued = max_queued
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.running_count = 0

    @property
    def queued_count(self) -> int:
        """Requests that wait now."""
        return len(self._waiting)

    def check(self) -> int:
        """Returns how many requests are ahead of one that came now.

        Raises:
            Overloaded: the queue is full.
        """
        if self.running_count < self._max_running:
            return 0
        if self.queued_count >= self._max_queued:
            raise Overloaded(
                f"{self.queued_count} requests wait already",
                metadata={"queued": str(self.queued_count), "limit": str(self._max_queued)},
                retry_delay_s=RETRY_DELAY_S,
            )
        return self.queued_count + 1

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Holds a slot while the context lasts; waits for it first.

        Raises:
            Overloaded: the queue is full.
        """
        if self.check():
            await self._wait()
        else:
            self.running_count += 1
        try:
            yield
        finally:
            self._release()

    async def _wait(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # The slot was handed over in the same moment: hand it on.
                self._release()
            else:
                self._waiting.remove(turn)
            raise

    def _release(self) -> None:
        """Hands the slot to the next that waits, or frees it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running_count -= 1
