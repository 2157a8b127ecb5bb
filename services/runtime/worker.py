"""Engine work runs here: one thread behind an awaitable queue, never on the event loop.

A blocked event loop starves every call of its process, health checks included. A call that is
cancelled while its work still waits does no work; work that has begun runs to its end, so long
work must look at a flag of its own between steps.
"""

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .errors import Overloaded

T = TypeVar("T")

_queue_seconds: ContextVar[float] = ContextVar("queue_seconds", default=0.0)


def queue_seconds() -> float:
    """Returns how long the function that runs now on a worker's thread waited for the thread."""
    return _queue_seconds.get()


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """A result with the seconds it waited for the thread and the seconds it ran."""

    value: T
    queue_seconds: float
    compute_seconds: float


class EngineWorker:
    """Runs functions one after the other on a thread of its own.

    Attributes:
        pending_count: functions that wait or run now.
    """

    def __init__(self, name: str, *, thread_count: int = 1, max_pending: int = 256) -> None:
        self._executor = ThreadPoolExecutor(thread_count, thread_name_prefix=name)
        self._name = name
        self._max_pending = max_pending
        self._lock = threading.Lock()
        self.pending_count = 0

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Returns `function(*args)`, run on the thread in the caller's context.

        Raises:
            Overloaded: too many functions wait already.
        """
        return (await self.run_timed(function, *args)).value

    async def run_timed(self, function: Callable[..., T], *args: Any) -> Timed[T]:
        """Returns `function(*args)` with its times; see `run`."""
        if self.pending_count >= self._max_pending:
            raise Overloaded(
                f"{self._name} has {self.pending_count} calls waiting",
                metadata={"worker": self._name, "limit": str(self._max_pending)},
                retry_delay_s=0.5,
            )
        context = contextvars.copy_context()
        queued_at = time.perf_counter()

        def timed() -> Timed[T]:
            started_at = time.perf_counter()
            waited = started_at - queued_at
            context.run(_queue_seconds.set, waited)
            value = context.run(function, *args)
            return Timed(value, waited, time.perf_counter() - started_at)

        with self._lock:
            self.pending_count += 1
        future = self._executor.submit(timed)
        # Counted until the thread is done with it, not until the caller has gone.
        future.add_done_callback(self._forget)
        return await asyncio.wrap_future(future)

    def _forget(self, _: "Future[Any]") -> None:
        with self._lock:
            self.pending_count -= 1

    def close(self) -> None:
        """Waits for the running function and drops those that wait."""
        self._executor.shutdown(wait=True, cancel_futures=True)
