"""The loop: one UNet evaluation after another, for rows of jobs that come and go at every step.

All bookkeeping happens on the event loop, so it needs no locks; only the step itself runs on the
engine's thread. Between two steps the loop lets go of jobs whose caller has left or whose time is
up, picks who is in the next step, and passes on what the last one did.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from ..runtime.engines.engine import Engine
from ..runtime.errors import (
    DeadlinePassed,
    MeshError,
    Overloaded,
    StageFailed,
    StageUnavailable,
)
from ..runtime.models.preview_map import PreviewMap
from ..runtime.row_scheduling import RowScheduler
from ..runtime.worker import EngineWorker
from .batch import BatchResult, StepResult, run_batch
from .jobs import BatchKey, DenoiseJob, StepDone
from .members import JobEvents, Member

# How long to wait when other users of the engine have filled its queue.
_BUSY_WORKER_DELAY_S = 0.01
_RETRY_DELAY_S = 1.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class BatchStep:
    """One step of a batch, as observers see it.

    Attributes:
        key: what its rows share.
        engine: the network that they went through.
        jobs: its jobs.
        step_indices: the number of the step that it was for each job, from 0.
        row_count: rows that went through the network.
        started_ns: wall clock at the start, in nanoseconds since the epoch.
        ended_ns: wall clock at the end.
        queue_seconds: how long it waited for the engine's thread.
        error: what ended all of its jobs; None when the network ran.
    """

    key: BatchKey
    engine: Engine
    jobs: tuple[DenoiseJob, ...]
    step_indices: tuple[int, ...]
    row_count: int
    started_ns: int
    ended_ns: int
    queue_seconds: float = 0.0
    error: MeshError | None = None


@dataclass(slots=True)
class LoopCounts:
    """What the loop has done since it was made.

    Attributes:
        step_count: UNet evaluations of a batch.
        row_count: rows of those, summed.
        wasted_step_count: steps of a job that ended after its caller had left or its time was up.
        finished_job_count: jobs whose every step was done.
        failed_job_count: jobs that ended otherwise, not counting those whose caller left.
        left_job_count: jobs whose caller left before the end.
    """

    step_count: int = 0
    row_count: int = 0
    wasted_step_count: int = 0
    finished_job_count: int = 0
    failed_job_count: int = 0
    left_job_count: int = 0


class StepLoop:
    """Runs the UNet steps of every job of one engine.

    Attributes:
        counts: what it has done so far.

    Args:
        engine: the UNet; called on the worker's thread only.
        worker: that thread; it may serve other loops too.
        scheduler: picks who is in the next step.
        waiting_row_limit: rows that may be in the loop; a job beyond them is refused.
        preview_map: draws previews; None draws none.
        observer: called on the event loop after every step of a batch.
    """

    def __init__(
        self,
        engine: Engine,
        worker: EngineWorker,
        *,
        scheduler: RowScheduler,
        waiting_row_limit: int = 256,
        preview_map: PreviewMap | None = None,
        observer: Callable[[BatchStep], None] | None = None,
    ) -> None:
        self._engine = engine
        self._worker = worker
        self._scheduler = scheduler
        self._waiting_row_limit = waiting_row_limit
        self._preview_map = preview_map
        self._observer = observer
        self._members: list[Member] = []
        self._changed = asyncio.Event()
        self._driver: asyncio.Task[None] | None = None
        self._closing = False
        self.counts = LoopCounts()

    @property
    def job_count(self) -> int:
        """Jobs in the loop."""
        return len(self._members)

    @property
    def row_count(self) -> int:
        """Rows of the jobs in the loop."""
        return sum(member.row_count for member in self._members)

    def submit(self, job: DenoiseJob) -> JobEvents:
        """Returns the events of a job, which is in the loop from now on.

        Raises:
            Overloaded: too many rows wait already.
            StageUnavailable: the loop is closing.
            ValueError: the job has more rows than a step takes.
        """
        if self._closing:
            raise StageUnavailable("the diffusion service is stopping", retry_delay_s=1.0)
        if job.row_count > self._scheduler.row_limit:
            limit = self._scheduler.row_limit
            raise ValueError(f"{job.row_count} rows never fit a step of {limit}")
        if self.row_count + job.row_count > self._waiting_row_limit:
            raise Overloaded(
                f"{self.row_count} rows are being denoised, at most {self._waiting_row_limit} may",
                metadata={"limit": str(self._waiting_row_limit)},
                retry_delay_s=_RETRY_DELAY_S,
            )
        member = Member(job, self._scheduler.pick_count, time.monotonic())
        self._members.append(member)
        self._changed.set()
        if self._driver is None:
            # A context of its own: the first caller's span must not own everyone's steps.
            self._driver = asyncio.create_task(self._drive(), context=contextvars.Context())
        return JobEvents(member)

    async def close(self, drain_s: float = 0.0) -> None:
        """Refuses new jobs, gives those in the loop `drain_s` seconds, and fails the rest."""
        self._closing = True
        self._changed.set()
        if self._driver is None:
            return
        await asyncio.wait({self._driver}, timeout=drain_s)
        self._fail_rest(StageUnavailable("the diffusion service is stopping"))
        self._changed.set()
        await self._driver

    async def _drive(self) -> None:
        try:
            await self._take_steps()
        except BaseException as exc:
            # Not a step's failure, which `_step` handles: the loop itself. Nobody may wait on.
            self._closing = True
            self._fail_rest(StageFailed("the step loop broke", fatal=True))
            if not isinstance(exc, Exception):
                raise
            _log.exception("step_loop_broke")

    async def _take_steps(self) -> None:
        while True:
            self._let_go()
            if self._members:
                await self._step(self._scheduler.pick(self._members, time.monotonic()))
            elif self._closing:
                return
            else:
                self._changed.clear()
                await self._changed.wait()

    def _let_go(self) -> None:
        """Takes out the jobs whose caller has left or whose time is up."""
        now_s = time.monotonic()
        for member in list(self._members):
            if member.left:
                self._members.remove(member)
                self.counts.left_job_count += 1
            elif member.expired(now_s):
                done = member.rows.completed_step_count
                total = member.rows.job.table.row_count
                text = f"the time given ran out after {done} of {total} steps"
                self._fail(member, DeadlinePassed(text, metadata={"step": str(done)}))

    async def _step(self, batch: list[Member]) -> None:
        """Runs one step of a batch; whatever happens in it ends at most this batch's jobs."""
        now_s = time.monotonic()
        for member in batch:
            member.begin_step(self._scheduler.pick_count, now_s)
        rows = [member.rows for member in batch]
        indices = tuple(row.completed_step_count for row in rows)
        started_ns = time.time_ns()
        try:
            kind = ("step", self._engine.digest, batch[0].key)
            result = await self._worker.run(
                run_batch, self._engine, rows, self._preview_map, kind=kind
            )
        except Overloaded:
            await asyncio.sleep(_BUSY_WORKER_DELAY_S)
            return
        except Exception as exc:
            result = BatchResult((), started_ns, time.time_ns(), 0.0)
            self._observe(batch, indices, result, self._fail_all(batch, exc))
            return
        self._count(batch, result)
        for member, outcome in zip(batch, result.members, strict=True):
            self._deliver(member, outcome)
        self._observe(batch, indices, result)

    def _count(self, batch: list[Member], result: BatchResult) -> None:
        row_count = sum(member.row_count for member in batch)
        self.counts.step_count += 1
        self.counts.row_count += row_count
        self._scheduler.costs.note_step(batch[0].key, row_count, result.seconds)
        for member in batch:
            member.charge(result.seconds, row_count)

    def _deliver(self, member: Member, outcome: StepResult) -> None:
        if member.left or member.mailbox.ended:
            self.counts.wasted_step_count += 1
        elif outcome.error is not None:
            self._fail(member, outcome.error)
        else:
            rows = member.rows
            total = rows.job.table.row_count
            member.mailbox.put(StepDone(rows.completed_step_count, total, outcome.preview))
            if rows.finished:
                self._members.remove(member)
                self.counts.finished_job_count += 1
                member.finish()
            elif member.expired(time.monotonic()):
                self.counts.wasted_step_count += 1

    def _fail_all(self, batch: list[Member], exc: Exception) -> MeshError:
        """Ends a batch's jobs with the engine's error and returns it."""
        if isinstance(exc, MeshError):
            error = exc
        else:
            _log.error("step_failed", row_count=len(batch), exc_info=exc)
            error = StageFailed("the denoising network failed")
        for member in batch:
            if not member.mailbox.ended:
                self._fail(member, error)
        return error

    def _fail_rest(self, error: MeshError) -> None:
        for member in list(self._members):
            self._fail(member, error)

    def _fail(self, member: Member, error: MeshError) -> None:
        self._members.remove(member)
        self.counts.failed_job_count += 1
        member.mailbox.end(error)

    def _observe(
        self,
        batch: list[Member],
        indices: tuple[int, ...],
        result: BatchResult,
        error: MeshError | None = None,
    ) -> None:
        if self._observer is None:
            return
        step = BatchStep(
            key=batch[0].key,
            engine=self._engine,
            jobs=tuple(member.rows.job for member in batch),
            step_indices=indices,
            row_count=sum(member.row_count for member in batch),
            started_ns=result.started_ns,
            ended_ns=result.ended_ns,
            queue_seconds=result.queue_seconds,
            error=error,
        )
        try:
            self._observer(step)
        except Exception:
            _log.exception("step_observer_failed")
