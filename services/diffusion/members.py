"""A job's place in the loop, and the caller's end of it."""

from types import TracebackType
from typing import Self

from ..runtime.errors import MeshError
from .jobs import DenoiseJob, Finished, JobUsage, StepDone
from .mailbox import Mailbox
from .rows import Rows


class Member:
    """A job in the loop, with its bill and its mailbox.

    Attributes:
        rows: its latents so far.
        key: what its rows must share with their neighbours.
        turn: number of the loop's step that it was last in, or that ran when it came.
        mailbox: where its events go.
        left: whether its caller has left.
    """

    def __init__(self, job: DenoiseJob, turn: int, submitted_s: float) -> None:
        self.rows = Rows(job)
        self.key = job.key
        self.turn = turn
        self.mailbox = Mailbox()
        self.left = False
        self._submitted_s = submitted_s
        self._queue_seconds: float | None = None
        self._compute_seconds = 0.0
        self._batch_row_count = 0

    @property
    def row_count(self) -> int:
        """Rows in each batch."""
        return self.rows.row_count

    def begin_step(self, turn: int, now_s: float) -> None:
        """Notes that it is in the step of this number."""
        self.turn = turn
        if self._queue_seconds is None:
            self._queue_seconds = now_s - self._submitted_s

    def expired(self, now_s: float) -> bool:
        """Returns whether its time is up."""
        deadline_s = self.rows.job.deadline_s
        return deadline_s is not None and deadline_s <= now_s

    def charge(self, seconds: float, batch_row_count: int) -> None:
        """Adds this job's share of a step."""
        self._compute_seconds += seconds * self.row_count / batch_row_count
        self._batch_row_count += batch_row_count

    def finish(self) -> None:
        """Sends the latents and the bill."""
        step_count = self.rows.completed_step_count
        usage = JobUsage(
            queue_seconds=self._queue_seconds or 0.0,
            compute_seconds=self._compute_seconds,
            evaluation_count=step_count * self.row_count,
            mean_batch_row_count=self._batch_row_count / step_count,
        )
        self.mailbox.end(Finished(self.rows.latents, usage))


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
