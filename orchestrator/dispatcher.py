"""Drives the scheduler with the real clock: calls wait here until they have a lane.

All of it happens on the event loop. A call that waits is a future; whatever frees a lane asks the
scheduler who is next. A stage that is away for a moment, as in a restart, is waited for.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

from ..services.runtime.errors import StageUnavailable
from .scheduling.scheduler import Scheduler
from .scheduling.work import Grant, Phase, Picture, StageName, Task, Ticket, Work


class LaneObserver(Protocol):
    """Is told of every call that waits for a lane and gets it, on the event loop."""

    def queued(self, task: Task) -> None:
        """A call waits from now on."""
        ...

    def unqueued(self, task: Task) -> None:
        """It waits no more, whether it has a lane or has left."""
        ...

    def waited(self, task: Task, seconds: float, *, first: bool) -> None:
        """It has waited so long for its lane; within its caller's span."""
        ...

    def taken(self, grant: Grant) -> None:
        """It has its lane."""
        ...

    def left(self, grant: Grant) -> None:
        """It has left it."""
        ...

    def called(self, grant: Grant, seconds: float) -> None:
        """It had an answer after so long in its lane; within its caller's span."""
        ...


class Dispatcher:
    """Gives lanes to calls.

    Attributes:
        scheduler: the policy.

    Args:
        scheduler: the policy.
        absence_s: how long a call waits for a replica to come back when none takes calls.
        clock: seconds; deadlines are on it.
        observer: is told of lanes; None for nobody.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        absence_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        observer: LaneObserver | None = None,
    ) -> None:
        self.scheduler = scheduler
        self._absence_s = absence_s
        self._clock = clock
        self._observer = observer
        self._waiting: dict[Task, asyncio.Future[Grant]] = {}
        # Since when a stage has had no replica that takes calls.
        self._absent_since_s: dict[StageName, float] = {}
        self._lives: defaultdict[tuple[StageName, str], int] = defaultdict(int)
        self._listeners: defaultdict[tuple[StageName, str], set[Callable[[], None]]]
        self._listeners = defaultdict(set)

    def admit(self, work: Work) -> Ticket:
        """Returns the ticket of a request that may come in; give it back with `leave`.

        Raises:
            Overloaded: too much waits.
            DeadlineTooShort: it cannot be done in its time.
            StageUnavailable: a stage has had no replica that takes calls for too long.
        """
        now_s = self._clock()
        for stage, since_s in self._absent_since_s.items():
            if now_s - since_s >= self._absence_s:
                raise _unavailable(stage)
        return self.scheduler.admit(work, now_s)

    def leave(self, ticket: Ticket, *, finished: bool) -> None:
        """Takes out a request that has ended, however it did."""
        self.scheduler.leave(ticket, self._clock(), finished=finished)
        self._dispatch()

    @asynccontextmanager
    async def lane(
        self, picture: Picture, stage: StageName, excluded: frozenset[str] = frozenset()
    ) -> AsyncIterator[Grant]:
        """Holds a place in a lane for one call of a stage; waits for it first.

        Args:
            picture: whose call it is.
            stage: which stage.
            excluded: addresses that it may not go to.

        Raises:
            StageUnavailable: no replica that it may go to takes calls.
        """
        grant = await self._wait_observed(Task(picture, stage, excluded))
        granted_s = self._clock()
        try:
            yield grant
            if self._observer is not None:
                self._observer.called(grant, self._clock() - granted_s)
        finally:
            self._release(grant)
            self._dispatch()

    def has_replica(self, stage: StageName, besides: frozenset[str]) -> bool:
        """Returns whether a stage has a replica that takes calls, besides some."""
        return self.scheduler.has_replica(stage, besides)

    def knows_replica(self, stage: StageName, besides: frozenset[str]) -> bool:
        """Returns whether a stage has a replica besides some, even if it takes no calls now."""
        return self.scheduler.knows_replica(stage, besides)

    def note_steps(self, grant: Grant, completed_step_count: int) -> None:
        """Notes how many steps of a grant are done."""
        self.scheduler.note_steps(grant, completed_step_count)

    def set_usable(self, stage: StageName, address: str, *, usable: bool) -> None:
        """Notes whether a replica takes calls."""
        self.scheduler.set_usable(stage, address, usable=usable)
        if usable:
            self._lives[stage, address] += 1
        if self.scheduler.has_replica(stage):
            self._absent_since_s.pop(stage, None)
        else:
            self._absent_since_s.setdefault(stage, self._clock())
        self._dispatch()
        if not usable and self._waiting:
            self._fail_stranded_later()

    def life_of(self, grant: Grant) -> tuple[StageName, str, int]:
        """Returns what names the replica of a grant until it has been away the next time."""
        replica = (grant.task.stage, grant.address)
        return (*replica, self._lives[replica])

    def note_silence(self, stage: StageName, address: str) -> None:
        """Tells the calls of a replica that it does not answer, though it is not gone."""
        for listener in list(self._listeners[stage, address]):
            listener()

    @contextmanager
    def told_of_silence(self, grant: Grant, listener: Callable[[], None]) -> Iterator[None]:
        """Has a function called whenever the replica of a grant is found not to answer."""
        listeners = self._listeners[grant.task.stage, grant.address]
        listeners.add(listener)
        try:
            yield
        finally:
            listeners.discard(listener)

    async def _wait_observed(self, task: Task) -> Grant:
        observer = self._observer
        if observer is None:
            return await self._wait(task)
        queued_s, first = self._clock(), task.picture.phase is Phase.WAITING
        observer.queued(task)
        try:
            grant = await self._wait(task)
        finally:
            observer.unqueued(task)
        observer.waited(task, self._clock() - queued_s, first=first)
        return grant

    async def _wait(self, task: Task) -> Grant:
        if not self.scheduler.knows_replica(task.stage, task.excluded):
            raise _unavailable(task.stage)
        turn: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self._waiting[task] = turn
        if not self._has_replica(task):
            self._fail_stranded_later()
        self.scheduler.enqueue(task)
        self._dispatch()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                # It was granted in the same moment: others may have it.
                self._release(turn.result())
                self._dispatch()
            elif self._waiting.pop(task, None) is not None:
                self.scheduler.withdraw(task)
            raise

    def _has_replica(self, task: Task) -> bool:
        return self.scheduler.has_replica(task.stage, task.excluded)

    def _dispatch(self) -> None:
        while grants := self.scheduler.dispatch(self._clock()):
            for grant in grants:
                turn = self._waiting.pop(grant.task)
                if self._observer is not None:
                    self._observer.taken(grant)
                if turn.cancelled():
                    # Its caller has left in this very moment: others may have it.
                    self._release(grant)
                else:
                    turn.set_result(grant)

    def _release(self, grant: Grant) -> None:
        self.scheduler.release(grant, self._clock())
        if self._observer is not None:
            self._observer.left(grant)

    def _fail_stranded_later(self) -> None:
        asyncio.get_running_loop().call_later(self._absence_s, self._fail_stranded)

    def _fail_stranded(self) -> None:
        """Fails the calls that no replica can take, if none has come back."""
        stranded = [task for task in self._waiting if not self._has_replica(task)]
        for task in stranded:
            self.scheduler.withdraw(task)
            self._waiting.pop(task).set_exception(_unavailable(task.stage))


def _unavailable(stage: StageName) -> StageUnavailable:
    return StageUnavailable(
        f"no replica of {stage} takes calls", metadata={"stage": stage}, retry_delay_s=1.0
    )
