"""A discrete-event loop: coroutines on a clock that jumps from one event to the next.

Nothing sleeps and nothing runs at the same time as anything else. What happens at one moment
happens in the order in which it was called for, so the same inputs always give the same run.
"""

import heapq
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Cancelled(Exception):
    """Raised where a process waits when it is cancelled."""


class EventLoop:
    """The clock and what is still to come.

    Attributes:
        now_s: the time, in seconds from the start.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, time_s: float, action: Callable[[], None]) -> None:
        """Lets something happen at a time, which is not before now."""
        self._count += 1
        heapq.heappush(self._heap, (max(time_s, self.now_s), self._count, action))

    def soon(self, action: Callable[[], None]) -> None:
        """Lets something happen now, after all that is due now already."""
        self.at(self.now_s, action)

    def sleep(self, seconds: float) -> "Signal[None]":
        """Returns what happens so much later."""
        signal: Signal[None] = Signal(self)
        self.at(self.now_s + seconds, lambda: signal.set(None))
        return signal

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> "Process":
        """Starts a process."""
        process = Process(self, coroutine)
        self.soon(process.resume)
        return process

    def run(self) -> None:
        """Runs until nothing is to come."""
        while self._heap:
            self.now_s, _, action = heapq.heappop(self._heap)
            action()


class Signal(Generic[T]):
    """Something that happens once. A process awaits it and gets its value.

    Attributes:
        is_set: whether it has happened.
    """

    def __init__(self, loop: EventLoop) -> None:
        self.is_set = False
        self._loop = loop
        self._value: T | None = None
        self._waiting: Process | None = None

    def set(self, value: T) -> None:
        """Lets it happen; who waits goes on at this moment."""
        self.is_set = True
        self._value = value
        if self._waiting is not None:
            self._loop.soon(self._waiting.resume)

    def wait(self, process: "Process") -> None:
        """Notes who waits."""
        self._waiting = process

    def __await__(self) -> Generator["Signal[Any]", None, T]:
        if not self.is_set:
            yield self
        return self._value  # pyright: ignore[reportReturnType] it is set by now


class Process:
    """A coroutine that runs on the loop's clock."""

    def __init__(self, loop: EventLoop, coroutine: Coroutine[Any, Any, None]) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._ended = False

    def resume(self) -> None:
        """Runs it until it waits again, unless it has ended."""
        if not self._ended:
            self._go(lambda: self._coroutine.send(None))

    def cancel(self) -> None:
        """Raises `Cancelled` where it waits; its clean-up runs before this returns."""
        if not self._ended:
            self._go(lambda: self._coroutine.throw(Cancelled()))

    def _go(self, step: Callable[[], Signal[Any]]) -> None:
        try:
            awaited = step()
        except (StopIteration, Cancelled):
            self._ended = True
        else:
            awaited.wait(self)
