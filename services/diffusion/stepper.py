"""Takes steps on the engine's thread, one UNet evaluation after another while there are jobs.

Between two steps there is no change of threads, so the device waits for no event loop. Jobs come
and go meanwhile: a lock guards who is there and how far they are, and nobody holds it while the
network runs. What callers are to hear goes to the event loop as news.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import structlog

from ..runtime.engines.engine import Engine
from ..runtime.errors import DeadlinePassed, MeshError, Overloaded, StageFailed
from ..runtime.models.preview_map import PreviewMap
from ..runtime.row_scheduling import RowScheduler
from ..runtime.worker import EngineWorker, queue_seconds
from .batch import BatchResult, StepResult, run_batch
from .jobs import BatchKey, DenoiseJob, Finished, StepDone
from .mailbox import Mailbox
from .members import Member

News: TypeAlias = Sequence[tuple[Mailbox, StepDone | Finished | MeshError]]

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class BatchStep:
    """One step of a batch, as observers see it.

    Attributes:
        key: what its rows share.
        engine: the network that they went through.
        jobs: its jobs.
        step_indices: the number of the step that it was for each job, from 0.
        row_count: rows of its jobs.
        padding_row_count: rows that the engine added to fill up a size that it takes.
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
    padding_row_count: int = 0
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


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Who is in a step."""

    members: tuple[Member, ...]
    step_indices: tuple[int, ...]
    started_ns: int = field(default_factory=time.time_ns)

    @property
    def key(self) -> BatchKey:
        return self.members[0].key

    @property
    def row_count(self) -> int:
        return sum(member.row_count for member in self.members)


class Stepper:
    """The jobs of one engine and the steps that they take; `take_steps` is for the engine's thread.

    Attributes:
        counts: what it has done so far.

    Args:
        engine: the UNet.
        worker: its thread.
        scheduler: picks who is in the next step.
        preview_map: draws previews; None draws none.
        post: passes news to the event loop; called on any thread.
        observer: called on the engine's thread after every step of a batch, before its news.
    """

    def __init__(
        self,
        engine: Engine,
        worker: EngineWorker,
        *,
        scheduler: RowScheduler,
        preview_map: PreviewMap | None,
        post: Callable[[News], None],
        observer: Callable[[BatchStep], None] | None,
    ) -> None:
        self._engine = engine
        self._worker = worker
        self._scheduler = scheduler
        self._preview_map = preview_map
        self._post = post
        self._observer = observer
        self._lock = threading.Lock()
        self._members: list[Member] = []
        self._running: _Batch | None = None
        self.counts = LoopCounts()

    @property
    def job_count(self) -> int:
        """Jobs that are there."""
        return len(self._members)

    @property
    def row_count(self) -> int:
        """Rows of the jobs that are there."""
        with self._lock:
            return sum(member.row_count for member in self._members)

    def join(self, job: DenoiseJob) -> Member:
        """Returns a job's place; it is in the next step that picks it."""
        with self._lock:
            member = Member(job, self._scheduler.pick_count, time.monotonic())
            self._members.append(member)
        return member

    def take_steps(self) -> None:
        """Takes steps until no job is left, or something else waits for the engine's thread.

        Raises:
            Overloaded: other users of the engine have filled its queue; nobody has lost a step.
        """
        while (batch := self._next_batch()) is not None:
            if not self._take_step(batch) or self._worker.has_waiting:
                return

    def fail_running(self, error: MeshError) -> None:
        """Ends the jobs of the step that runs, which has been given up; all jobs if none runs."""
        with self._lock:
            batch, self._running = self._running, None
            news = self._fail(batch.members if batch else tuple(self._members), error)
        if batch is not None:
            self._observe(batch, _nothing(batch), error)
        self._post(news)

    def fail_all(self, error: MeshError) -> None:
        """Ends all jobs."""
        with self._lock:
            news = self._fail(tuple(self._members), error)
        self._post(news)

    def _next_batch(self) -> _Batch | None:
        """Returns who is in the next step; None when nobody is there."""
        now_s = time.monotonic()
        with self._lock:
            news = self._let_go(now_s)
            if self._members:
                picked = self._scheduler.pick(self._members, now_s)
                for member in picked:
                    member.begin_step(self._scheduler.pick_count, now_s)
                indices = tuple(member.rows.completed_step_count for member in picked)
                self._running = _Batch(tuple(picked), indices)
            batch = self._running
        self._post(news)
        return batch

    def _let_go(self, now_s: float) -> News:
        """Takes out the jobs whose caller has left or whose time is up."""
        late: list[Member] = []
        for member in list(self._members):
            if member.left:
                self._members.remove(member)
                self.counts.left_job_count += 1
            elif member.expired(now_s):
                late.append(member)
        return [told for member in late for told in self._fail((member,), _too_late(member))]

    def _take_step(self, batch: _Batch) -> bool:
        """Runs a step; whatever happens in it ends at most its own jobs. Returns whether to go on.

        A step that was given up while it ran leaves everything as it is.
        """
        error, waited_s = None, queue_seconds()
        kind = ("step", self._engine.digest, batch.key)
        rows = [member.rows for member in batch.members]
        try:
            result = self._worker.watched(
                kind, lambda: run_batch(self._engine, rows, self._preview_map)
            )
        except Overloaded:
            with self._lock:
                self._running = None
            raise
        except Exception as exc:
            result, error = _nothing(batch), _known(exc, len(rows))
        with self._lock:
            if self._running is not batch:
                return False
            self._running = None
            news = self._fail(batch.members, error) if error else self._settle(batch, result)
        self._observe(batch, result, error, waited_s)
        self._post(news)
        return True

    def _settle(self, batch: _Batch, result: BatchResult) -> News:
        """Bills a step that ran, and returns what the callers are to hear of it."""
        row_count = batch.row_count
        self.counts.step_count += 1
        self.counts.row_count += row_count
        self._scheduler.costs.note_step(batch.key, row_count, result.seconds)
        now_s = time.monotonic()
        news: list[tuple[Mailbox, StepDone | Finished | MeshError]] = []
        for member, outcome in zip(batch.members, result.members, strict=True):
            member.charge(result.seconds, row_count)
            news += self._outcome(member, outcome, now_s)
        return news

    def _outcome(self, member: Member, outcome: StepResult, now_s: float) -> News:
        if member.left or member.ended:
            self.counts.wasted_step_count += 1
            return ()
        if outcome.error is not None:
            return self._fail((member,), outcome.error)
        told = member.progress(outcome.preview, now_s)
        news = [] if told is None else [(member.mailbox, told)]
        if member.rows.finished:
            self._members.remove(member)
            self.counts.finished_job_count += 1
            return [*news, (member.mailbox, member.finish())]
        if member.expired(now_s):
            self.counts.wasted_step_count += 1
        return news

    def _fail(self, members: Sequence[Member], error: MeshError) -> News:
        failed = [member for member in members if not member.ended]
        for member in failed:
            member.ended = True
            self._members.remove(member)
        self.counts.failed_job_count += len(failed)
        return [(member.mailbox, error) for member in failed]

    def _observe(
        self, batch: _Batch, result: BatchResult, error: MeshError | None, waited_s: float = 0.0
    ) -> None:
        if self._observer is None:
            return
        step = BatchStep(
            key=batch.key,
            engine=self._engine,
            jobs=tuple(member.rows.job for member in batch.members),
            step_indices=batch.step_indices,
            row_count=batch.row_count,
            started_ns=result.started_ns,
            ended_ns=result.ended_ns,
            padding_row_count=result.padding_row_count,
            queue_seconds=waited_s,
            error=error,
        )
        try:
            self._observer(step)
        except Exception:
            _log.exception("step_observer_failed")


def _nothing(batch: _Batch) -> BatchResult:
    """Returns the result of a step that did nothing for anyone."""
    return BatchResult((), batch.started_ns, time.time_ns(), 0.0)


def _known(exc: Exception, row_count: int) -> MeshError:
    """Returns what a failure of the engine is to its callers."""
    if isinstance(exc, MeshError):
        return exc
    _log.error("step_failed", row_count=row_count, exc_info=exc)
    return StageFailed("the denoising network failed")


def _too_late(member: Member) -> DeadlinePassed:
    done, total = member.rows.completed_step_count, member.step_count
    text = f"the time given ran out after {done} of {total} steps"
    return DeadlinePassed(text, metadata={"step": str(done)})
