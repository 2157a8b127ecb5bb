"""A job's place in the loop, and the caller's end of it."""

from types import TracebackType
from typing import Self

from ..runtime.errors import MeshError
from .jobs import DenoiseJob, Finished, JobUsage, Picture, StepDone
from .mailbox import Mailbox
from .rows import Rows


class Member:
    """A job in the loop, with its bill and its mailbox.

    Attributes:
        rows: its latents so far.
        key: what its rows must share with their neighbours.
        last_pick: number of the pick that it was last in, or that was last when it came.
        arrival_s: when it came, on `time.monotonic`.
        mailbox: where its events go.
        left: whether its caller has left.
        ended: whether it has been told its end.
    """

    def __init__(self, job: DenoiseJob, last_pick: int, arrival_s: float) -> None:
        self.rows = Rows(job)
        self.key = job.key
        self.last_pick = last_pick
        self.arrival_s = arrival_s
        self.mailbox = Mailbox()
        self.left = False
        self.ended = False
        self._told_s = arrival_s
        self._queue_seconds: float | None = None
        self._compute_seconds = 0.0
        self._batch_row_count = 0

    @property
    def row_count(self) -> int:
        """Rows in each batch."""
        return self.rows.row_count

    @property
    def tier(self) -> str:
        """The tier that it shares steps in."""
        return self.rows.job.tier

    @property
    def tenant(self) -> str:
        """Whom it is for."""
        return self.rows.job.tenant

    @property
    def deadline_s(self) -> float | None:
        """When its steps should have ended, on `time.monotonic`; None for never."""
        job = self.rows.job
        return None if job.deadline_s is None else job.deadline_s - job.finish_reserve_s

    @property
    def step_count(self) -> int:
        """Steps that it takes in all."""
        return self.rows.job.table.row_count

    @property
    def remaining_step_count(self) -> int:
        """Steps that it still has to take."""
        return self.step_count - self.rows.completed_step_count

    def begin_step(self, pick: int, now_s: float) -> None:
        """Notes that it is in the step of the pick of this number."""
        self.last_pick = pick
        if self._queue_seconds is None:
            self._queue_seconds = now_s - self.arrival_s

    def expired(self, now_s: float) -> bool:
        """Returns whether its time is up."""
        deadline_s = self.rows.job.deadline_s
        return deadline_s is not None and deadline_s <= now_s

    def charge(self, seconds: float, batch_row_count: int) -> None:
        """Adds this job's share of a step."""
        self._compute_seconds += seconds * self.row_count / batch_row_count
        self._batch_row_count += batch_row_count

    def progress(self, preview: Picture | None, now_s: float) -> StepDone | None:
        """Returns what its caller is to hear of the step that it has taken; None for nothing yet.

        An event costs both ends more than many a step does, so a caller may ask for few. A preview
        and the last step always come.
        """
        due = now_s - self._told_s >= self.rows.job.min_progress_interval_s
        if preview is None and not due and not self.rows.finished:
            return None
        self._told_s = now_s
        return StepDone(self.rows.completed_step_count, self.step_count, preview)

    def finish(self) -> Finished:
        """Ends it, and returns the latents and the bill."""
        self.ended = True
        step_count = self.rows.completed_step_count
        usage = JobUsage(
            queue_seconds=self._queue_seconds or 0.0,
            compute_seconds=self._compute_seconds,
            evaluation_count=step_count * self.row_count,
            mean_batch_row_count=self._batch_row_count / step_count,
        )
        return Finished(self.rows.latents, usage)


class JobEvents:
    """The events of one job: `StepDone` any number of times, then one `Finished`.

    Use it as an async context manager around `async for`: leaving it before the end takes the
    job out of the loop before its next step. Unread progress is merged; nothing piles up.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self._finished = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._member.left = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StepDone | Finished:
        """Returns the next event.

        Raises:
            MeshError: the job failed.
        """
        if self._finished:
            raise StopAsyncIteration
        event = await self._member.mailbox.get()
        if isinstance(event, MeshError):
            raise event
        self._finished = isinstance(event, Finished)
        return event
