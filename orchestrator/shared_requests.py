"""Who calls with the ID of a request that is known joins it: same ID, same request, same bytes.

A caller that repeats a call, because its connection broke or a proxy tried twice, gets the request
that runs already, or its kept result. A request runs for as long as somebody waits for it. One that
failed is not kept: who asks again has it run anew.
"""

import asyncio
import contextvars
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from ..services.runtime.deadlines import Deadline, current_deadline, set_deadline
from ..services.runtime.errors import RequestIdReused
from .generation import GenerationResult
from .kept_results import KeepLimits, KeptResults
from .plan import GenerationPlan
from .progress import ProgressFeed

# IDs are the tenant's own: nobody gets what is another's by guessing one.
_Key = tuple[str, uuid.UUID]


class Start(Protocol):
    """Lets a request in and returns the task that runs it; raises the refusal otherwise."""

    def __call__(
        self, plan: GenerationPlan, feed: ProgressFeed
    ) -> "asyncio.Task[GenerationResult]": ...


class SharedRequest:
    """One request, whoever waits for it.

    Attributes:
        plan: of the caller who came first; its seeds are everyone's.
        feed: its events so far and to come.
        task: ends with its result.
        deadline: the latest of its callers'.
        caller_count: callers who wait for it.
    """

    def __init__(
        self,
        plan: GenerationPlan,
        feed: ProgressFeed,
        task: "asyncio.Future[GenerationResult]",
        deadline: Deadline,
    ) -> None:
        self.plan = plan
        self.feed = feed
        self.task = task
        self.deadline = deadline
        self.caller_count = 0

    async def result(self) -> GenerationResult:
        """Returns the result; a caller who is cancelled meanwhile leaves it to the others.

        Raises:
            MeshError: the request failed.
        """
        return await asyncio.shield(self.task)


class SharedRequests:
    """The requests that run, and the results of those that are done. For one event loop.

    Args:
        start: lets a request in.
        limits: of what is kept.
        clock: seconds.
    """

    def __init__(
        self, start: Start, limits: KeepLimits, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._start = start
        self._clock = clock
        self._running: dict[_Key, SharedRequest] = {}
        self._kept = KeptResults(limits)

    @property
    def running_count(self) -> int:
        """Requests that run."""
        return len(self._running)

    @asynccontextmanager
    async def join(
        self, plan: GenerationPlan, *, keep: bool
    ) -> AsyncIterator[tuple[SharedRequest, bool]]:
        """Gives the request of a plan, and whether it was there before. The last to leave stops it.

        Args:
            plan: what the caller asks for.
            keep: whether to keep the result for a while: the caller knows the request's ID.

        Raises:
            RequestIdReused: the ID is that of a request with another spec.
            MeshError: it may not come in.
        """
        key = (plan.tenant, uuid.UUID(plan.request_id))
        request = self._find(key, plan)
        joined = request is not None
        if request is None:
            request = self._run(key, plan, keep=keep)
        request.caller_count += 1
        try:
            yield request, joined
        finally:
            request.caller_count -= 1
            if request.caller_count == 0 and not request.task.done():
                await self._abandon(key, request)

    def _find(self, key: _Key, plan: GenerationPlan) -> SharedRequest | None:
        request = self._running.get(key)
        if request is not None and not request.task.done():
            _check_same(request.plan, plan)
            request.deadline.extend(current_deadline())
            return request
        if request is not None:
            # Its task has ended in this very moment.
            self._end(key, request, keep=True)
        result = self._kept.get(key, self._clock())
        if result is None:
            return None
        _check_same(result.plan, plan)
        return _done(result)

    def _run(self, key: _Key, plan: GenerationPlan, *, keep: bool) -> SharedRequest:
        feed, deadline = ProgressFeed(), Deadline(current_deadline().at_s)
        context = contextvars.copy_context()
        # A deadline of its own, which those who join can move.
        context.run(set_deadline, deadline)
        task = context.run(self._start, plan, feed)
        request = self._running[key] = SharedRequest(plan, feed, task, deadline)
        task.add_done_callback(lambda _: self._end(key, request, keep=keep))
        return request

    def _end(self, key: _Key, request: SharedRequest, *, keep: bool) -> None:
        if self._running.get(key) is request:
            del self._running[key]
        # Asked for, or asyncio would call a failure that no caller awaited a leak.
        if request.task.cancelled() or request.task.exception() is not None:
            return
        if keep:
            self._kept.put(key, request.task.result(), self._clock())

    async def _abandon(self, key: _Key, request: SharedRequest) -> None:
        """Stops what nobody waits for any more; returns once it has stopped."""
        # Forgotten at once, so that nobody joins what is being given up.
        if self._running.get(key) is request:
            del self._running[key]
        request.task.cancel()
        await asyncio.wait([request.task])


def _check_same(one: GenerationPlan, other: GenerationPlan) -> None:
    if one.fingerprint != other.fingerprint:
        raise RequestIdReused(other.request_id)


def _done(result: GenerationResult) -> SharedRequest:
    done: asyncio.Future[GenerationResult] = asyncio.get_running_loop().create_future()
    done.set_result(result)
    return SharedRequest(result.plan, ProgressFeed.of(result.pictures), done, Deadline())
