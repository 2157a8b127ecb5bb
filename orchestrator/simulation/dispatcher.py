"""Drives a scheduler with the virtual clock: `../dispatcher.py`, on another loop."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from ..scheduling.costs import Costs
from ..scheduling.work import Grant, Task, Ticket, Work
from .events import Cancelled, EventLoop, Signal


class LaneScheduler(Protocol):
    """What the simulator asks of a policy: of the `Scheduler` that serves, or of a control."""

    @property
    def costs(self) -> Costs: ...
    def admit(self, work: Work, now_s: float) -> Ticket: ...
    def finish_reserve_s(self, work: Work) -> float: ...
    def leave(self, ticket: Ticket, now_s: float, *, finished: bool) -> None: ...
    def enqueue(self, task: Task) -> None: ...
    def withdraw(self, task: Task) -> None: ...
    def dispatch(self, now_s: float) -> list[Grant]: ...
    def note_steps(self, grant: Grant, completed_step_count: int) -> None: ...
    def release(self, grant: Grant, now_s: float) -> None: ...


class VirtualDispatcher:
    """Gives lanes to calls.

    Attributes:
        scheduler: the policy.
        grant_count: tasks that got a lane.
        decision_s: processor time that `Scheduler.dispatch` took when it granted something. The
            one figure here that is not the virtual clock's.
    """

    def __init__(self, scheduler: LaneScheduler, loop: EventLoop) -> None:
        self.scheduler = scheduler
        self.grant_count = 0
        self.decision_s = 0.0
        self._loop = loop
        self._waiting: dict[Task, Signal[Grant]] = {}

    def leave(self, ticket: Ticket, *, finished: bool) -> None:
        """Takes out a request that has ended, however it did."""
        self.scheduler.leave(ticket, self._loop.now_s, finished=finished)
        self._dispatch()

    @asynccontextmanager
    async def lane(self, task: Task) -> AsyncIterator[Grant]:
        """Holds a place in a lane for one call; waits for it first."""
        grant = await self._wait(task)
        try:
            yield grant
        finally:
            self.scheduler.release(grant, self._loop.now_s)
            self._dispatch()

    async def _wait(self, task: Task) -> Grant:
        turn: Signal[Grant] = Signal(self._loop)
        self._waiting[task] = turn
        self.scheduler.enqueue(task)
        self._dispatch()
        try:
            return await turn
        except Cancelled:
            if self._waiting.pop(task, None) is not None:
                self.scheduler.withdraw(task)
            else:
                # It was granted in the same moment: others may have it.
                self.scheduler.release(await turn, self._loop.now_s)
                self._dispatch()
            raise

    def _dispatch(self) -> None:
        started_s = time.thread_time()
        grants = self.scheduler.dispatch(self._loop.now_s)
        if grants:
            self.decision_s += time.thread_time() - started_s
            self.grant_count += len(grants)
        for grant in grants:
            self._waiting.pop(grant.task).set(grant)
