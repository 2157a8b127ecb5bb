"""Engine work runs here: one thread behind an awaitable queue, never on the event loop.

A blocked event loop starves every call of its process, health checks included. A call that is
cancelled while its work still waits does no work; work that has begun runs to its end, so long
work must look at a flag of its own between steps. Work that never comes to its end is found by a
watchdog: nothing can stop a thread, so its call is told, and the process has to go.
"""

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog

from .errors import MeshError, Overloaded, StageLost, StageUnavailable
from .metrics.busy_clock import BusyClock
from .watchdog import Hang, HangLimits, Watchdog

T = TypeVar("T")

_queue_seconds: ContextVar[float] = ContextVar("queue_seconds", default=0.0)
_log = structlog.get_logger()


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
        name: of its threads.
        pending_count: functions that wait or run now.
        busy: how long its threads have worked, on `time.perf_counter`.
        hung: whether a function has not come back.
        on_wait: called on the thread with the seconds that a function has waited for it, in the
            context of its caller; None calls nobody.
    """

    def __init__(self, name: str, *, thread_count: int = 1, max_pending: int = 256) -> None:
        self._executor = ThreadPoolExecutor(thread_count, thread_name_prefix=name)
        self.name = name
        self.busy = BusyClock()
        self.hung = False
        self.on_wait: Callable[[float], None] | None = None
        self._thread_count = thread_count
        self._max_pending = max_pending
        self._lock = threading.Lock()
        self._watchdog: Watchdog | None = None
        self._interval_s = 0.0
        self._on_hang: Callable[[], None] = lambda: None
        self._ticking = False
        # The answers that are awaited, and the one that the thread works on.
        self._answers: set[asyncio.Future[Any]] = set()
        self._running: asyncio.Future[Any] | None = None
        self.pending_count = 0

    @property
    def has_waiting(self) -> bool:
        """Whether a function waits for the one that runs to end."""
        return self.pending_count > self._thread_count

    @property
    def call_age_s(self) -> float:
        """For how long the watched call that runs now has run; 0 if none does."""
        return 0.0 if self._watchdog is None else self._watchdog.age_s

    def watch(self, limits: HangLimits, on_hang: Callable[[], None]) -> None:
        """Has functions of a kind watched from now on.

        When one hangs, its caller gets `StageLost`, everyone else who waits `StageUnavailable`, and
        whoever comes later too.

        Args:
            limits: how long they may run.
            on_hang: called on the event loop when one does not come back.
        """
        assert self._thread_count == 1, "a watchdog watches one thread"
        self._watchdog, self._interval_s = Watchdog(limits), limits.interval_s
        self._on_hang = on_hang

    async def run(self, function: Callable[..., T], *args: Any, kind: Hashable = None) -> T:
        """Returns `function(*args)`, run on the thread in the caller's context.

        Args:
            function: what to run.
            *args: its arguments.
            kind: what takes about as long, e.g. the shape of the inputs; None is not watched.

        Raises:
            Overloaded: too many functions wait already.
            StageLost: it hangs.
            StageUnavailable: one before it hangs.
        """
        return (await self.run_timed(function, *args, kind=kind)).value

    async def run_timed(
        self, function: Callable[..., T], *args: Any, kind: Hashable = None
    ) -> Timed[T]:
        """Returns `function(*args)` with its times; see `run`."""
        if self.hung:
            raise self._no_more()
        if self.pending_count >= self._max_pending:
            raise Overloaded(
                f"{self.name} has {self.pending_count} calls waiting",
                metadata={"worker": self.name, "limit": str(self._max_pending)},
                retry_delay_s=0.5,
            )
        answer: asyncio.Future[Timed[T]] = asyncio.get_running_loop().create_future()
        context = contextvars.copy_context()
        queued_at = time.perf_counter()

        def timed() -> Timed[T]:
            started_at = time.perf_counter()
            waited = started_at - queued_at
            context.run(_queue_seconds.set, waited)
            if self.on_wait is not None:
                context.run(self.on_wait, waited)
            self._running = answer
            self.busy.begin(started_at)
            try:
                value = context.run(self.watched, kind, lambda: function(*args))
            finally:
                ended_at = time.perf_counter()
                self.busy.end(started_at, ended_at)
            return Timed(value, waited, ended_at - started_at)

        with self._lock:
            self.pending_count += 1
        future = self._executor.submit(timed)
        # Counted until the thread is done with it, not until the caller has gone.
        future.add_done_callback(self._forget)
        return await self._fill(answer, future)

    def watched(self, kind: Hashable, work: Callable[[], T]) -> T:
        """Returns what `work` returns; the watchdog knows that it runs.

        For functions on the thread that run for long: each part that is of a kind is watched alone.
        """
        watchdog = self._watchdog if kind is not None else None
        if watchdog is not None:
            watchdog.begin(kind)
        done = False
        try:
            value = work()
            done = True
            return value
        finally:
            if watchdog is not None:
                watchdog.end(done=done)
            # What the function does next has not waited for the thread.
            _queue_seconds.set(0.0)

    async def _fill(self, answer: "asyncio.Future[T]", future: "Future[T]") -> T:
        """Returns a future's result; not by `asyncio.wrap_future`, for a hang is an answer too."""
        loop = asyncio.get_running_loop()

        def settle(future: "Future[T]") -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, answer, future)

        future.add_done_callback(settle)
        self._answers.add(answer)
        self._tick_later(loop)
        try:
            return await answer
        finally:
            self._answers.discard(answer)
            if answer.cancelled():
                future.cancel()

    def _tick_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._watchdog is not None and not self._ticking and not self.hung:
            self._ticking = True
            loop.call_later(self._interval_s, self._tick, loop, self._watchdog)

    def _tick(self, loop: asyncio.AbstractEventLoop, watchdog: Watchdog) -> None:
        self._ticking = False
        hang = watchdog.tick()
        if hang is not None:
            self._give_up(hang)
        elif self.pending_count:
            # As long as the thread works, even for callers who have left.
            self._tick_later(loop)

    def _give_up(self, hang: Hang) -> None:
        self.hung = True
        _log.error("engine_hung", worker=self.name, age_s=hang.age_s, limit_s=hang.limit_s)
        text = f"{self.name}: the engine has not come back for {hang.age_s:.1f} s"
        lost = StageLost(text, metadata={"limit_s": f"{hang.limit_s:.1f}"})
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(lost if answer is self._running else self._no_more())
        self._on_hang()

    def _no_more(self) -> MeshError:
        return StageUnavailable(f"{self.name}: the engine hangs", retry_delay_s=1.0)

    def _forget(self, _: "Future[Any]") -> None:
        with self._lock:
            self.pending_count -= 1

    def close(self) -> None:
        """Waits for the running function and drops those that wait."""
        self._executor.shutdown(wait=True, cancel_futures=True)


def _settle(answer: "asyncio.Future[T]", future: "Future[T]") -> None:
    """Gives an answer what its future has become, unless nobody waits for it any more."""
    if answer.done():
        return
    if future.cancelled():
        answer.cancel()
    elif (error := future.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(future.result())
