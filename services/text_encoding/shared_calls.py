"""Equal work asked for at the same time is done once.

Thirty-two pictures of one prompt arrive together; without this, each would encode it, since none
finds the others' result in the cache yet.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(slots=True)
class _Call(Generic[T]):
    task: "asyncio.Task[T]"
    waiter_count: int = 0
    claimed: bool = False


class SharedCalls(Generic[K, T]):
    """Calls in flight by key. For one event loop."""

    def __init__(self) -> None:
        self._calls: dict[K, _Call[T]] = {}

    async def run(self, key: K, work: Callable[[], Coroutine[Any, Any, T]]) -> tuple[T, bool]:
        """Returns the result of `work()`, or of the equal work that runs already.

        A caller that is cancelled leaves the work to the others; the last one to leave cancels it.

        Returns:
            The result, and whether this caller is the one to be charged for it: the first that
            gets it.
        """
        call = self._calls.get(key)
        if call is None:
            call = _Call(asyncio.create_task(work()))
            self._calls[key] = call
            call.task.add_done_callback(lambda _, call=call: self._forget(key, call))
        call.waiter_count += 1
        try:
            result = await asyncio.shield(call.task)
        finally:
            call.waiter_count -= 1
            if call.waiter_count == 0 and not call.task.done():
                # Forgotten at once, so that nobody joins work that is being given up.
                self._forget(key, call)
                call.task.cancel()
        charged = not call.claimed
        call.claimed = True
        return result, charged

    def _forget(self, key: K, call: _Call[T]) -> None:
        if self._calls.get(key) is call:
            del self._calls[key]
