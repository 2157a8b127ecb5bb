"""The loop of one engine: takes jobs in, has their steps taken, and tells their callers.

Here is the event loop's side: who may come in, and when the engine's thread is needed. The steps
themselves, and all that happens between them, are `stepper.py`'s, on that thread.
"""

import asyncio
import contextvars
from collections.abc import Callable

import structlog

from ..runtime.engines.engine import Engine
from ..runtime.errors import MeshError, Overloaded, StageFailed, StageUnavailable
from ..runtime.models.preview_map import PreviewMap
from ..runtime.row_scheduling import RowScheduler
from ..runtime.worker import EngineWorker
from .jobs import DenoiseJob, StepDone
from .members import JobEvents
from .stepper import BatchStep, LoopCounts, News, Stepper

# How long to wait when other users of the engine have filled its queue.
_BUSY_WORKER_DELAY_S = 0.01
_RETRY_DELAY_S = 1.0

_log = structlog.get_logger()


class StepLoop:
    """Runs the UNet steps of every job of one engine.

    Args:
        engine: the UNet; called on the worker's thread only.
        worker: that thread; it may serve other loops too.
        scheduler: picks who is in the next step.
        waiting_row_limit: rows that may be in the loop; a job beyond them is refused.
        preview_map: draws previews; None draws none.
        observer: called on the worker's thread after every step of a batch.
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
        self._worker = worker
        self._row_limit = scheduler.row_limit
        self._waiting_row_limit = waiting_row_limit
        self._stepper = Stepper(
            engine,
            worker,
            scheduler=scheduler,
            preview_map=preview_map,
            post=self._post,
            observer=observer,
        )
        self._changed = asyncio.Event()
        self._driver: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def counts(self) -> LoopCounts:
        """What the loop has done so far."""
        return self._stepper.counts

    @property
    def job_count(self) -> int:
        """Jobs in the loop."""
        return self._stepper.job_count

    @property
    def row_count(self) -> int:
        """Rows of the jobs in the loop."""
        return self._stepper.row_count

    @property
    def row_limit(self) -> int:
        """Most rows of a step."""
        return self._row_limit

    def submit(self, job: DenoiseJob) -> JobEvents:
        """Returns the events of a job, which is in the loop from now on.

        Raises:
            Overloaded: too many rows wait already.
            StageUnavailable: the loop is closing.
            ValueError: the job has more rows than a step takes.
        """
        if self._closing:
            raise StageUnavailable("the diffusion service is stopping", retry_delay_s=1.0)
        if job.row_count > self._row_limit:
            raise ValueError(f"{job.row_count} rows never fit a step of {self._row_limit}")
        if (row_count := self.row_count) + job.row_count > self._waiting_row_limit:
            raise Overloaded(
                f"{row_count} rows are being denoised, at most {self._waiting_row_limit} may",
                metadata={"limit": str(self._waiting_row_limit)},
                retry_delay_s=_RETRY_DELAY_S,
            )
        member = self._stepper.join(job)
        self._changed.set()
        if self._driver is None:
            # A context of its own: the first caller's span must not own everyone's steps.
            self._driver = asyncio.create_task(self._drive(), context=contextvars.Context())
            self._loop = asyncio.get_running_loop()
        return JobEvents(member)

    async def close(self, drain_s: float = 0.0) -> None:
        """Refuses new jobs, gives those in the loop `drain_s` seconds, and fails the rest."""
        self._closing = True
        self._changed.set()
        if self._driver is None:
            return
        await asyncio.wait({self._driver}, timeout=drain_s)
        self._stepper.fail_all(StageUnavailable("the diffusion service is stopping"))
        await self._driver

    async def _drive(self) -> None:
        try:
            await self._have_steps_taken()
        except BaseException as exc:
            # Not a step's failure, which ends its own jobs: the loop itself. Nobody may wait on.
            self._closing = True
            self._stepper.fail_all(StageFailed("the step loop broke", fatal=True))
            if not isinstance(exc, Exception):
                raise
            _log.exception("step_loop_broke")

    async def _have_steps_taken(self) -> None:
        while True:
            # Cleared first: whoever comes while the thread ends its last step is seen next time.
            self._changed.clear()
            if self.job_count:
                await self._take_steps()
            elif self._closing:
                return
            else:
                await self._changed.wait()

    async def _take_steps(self) -> None:
        try:
            await self._worker.run(self._stepper.take_steps)
        except Overloaded:
            await asyncio.sleep(_BUSY_WORKER_DELAY_S)
        except MeshError as error:
            # The engine hangs: in this step, or in whatever came before it.
            self._stepper.fail_running(error)

    def _post(self, news: News) -> None:
        # Where the event loop has ended, nobody listens any more.
        if news and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_tell, news)


def _tell(news: News) -> None:
    for mailbox, event in news:
        if isinstance(event, StepDone):
            mailbox.put(event)
        else:
            mailbox.end(event)
