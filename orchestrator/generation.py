"""One request from its admission to its last picture."""

import asyncio
import time
from dataclasses import dataclass

from opentelemetry import trace

from ..services.runtime import telemetry
from ..services.runtime.deadlines import current_deadline, time_left
from ..services.runtime.errors import MeshError
from ..services.runtime.span_status import work_span
from .dispatcher import Dispatcher
from .picture_run import PictureRun
from .pipeline import Picture, generate_picture
from .plan import GenerationPlan
from .progress import ProgressFeed
from .request_metrics import RequestMetrics
from .scheduling.work import HEAVY_STAGE, Ticket, Work
from .stages import Stages
from .suspects import Suspects
from .tenants import Tenants


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """All pictures of a request, ordered by index, and its times."""

    plan: GenerationPlan
    pictures: tuple[Picture, ...]
    queue_duration_s: float
    total_duration_s: float


class Generator:
    """Runs requests: admission, then all pictures of a request side by side.

    Attributes:
        dispatcher: gives lanes to calls.

    Args:
        stages: all replicas.
        dispatcher: gives lanes to calls.
        tenants: their limits.
        suspects: specs that stages died under.
        tracer: makes the spans.
        metrics: counts requests; None for nobody who asks.
    """

    def __init__(
        self,
        stages: Stages,
        dispatcher: Dispatcher,
        tenants: Tenants,
        suspects: Suspects,
        tracer: trace.Tracer,
        metrics: RequestMetrics | None = None,
    ) -> None:
        self._stages = stages
        self._metrics = metrics
        self._tracer = tracer
        self.dispatcher = dispatcher
        self._tenants = tenants
        self._suspects = suspects

    @property
    def waiting_count(self) -> int:
        """Requests that wait to be started."""
        return self.dispatcher.scheduler.backlog.waiting

    def start(self, plan: GenerationPlan, feed: ProgressFeed) -> "asyncio.Task[GenerationResult]":
        """Lets a request in and returns the task that runs it; cancelling that ends all its work.

        The task ends with the finished pictures, or with the `MeshError` that one of them failed
        with; its siblings are cancelled then. `feed` is told of each step and picture, and ended.

        Raises:
            RequestQuarantined: stages have died under it.
            TenantRateExceeded: its tenant sends too often.
            TenantInFlightExceeded: its tenant has too many requests at once.
            Overloaded: too much waits.
            DeadlineTooShort: it cannot be done in its time.
            StageUnavailable: a stage has been away for too long.
        """
        entered_s, deadline = time.monotonic(), current_deadline()
        ticket = self._admit(plan, entered_s)
        if self._metrics is not None:
            self._metrics.note_admission(plan)
        task = asyncio.create_task(self._generate(plan, ticket, feed))

        def leave(task: "asyncio.Task[GenerationResult]") -> None:
            # Here, because a task that is cancelled before its first step runs nothing of its own.
            finished = not task.cancelled() and task.exception() is None
            self.dispatcher.leave(ticket, finished=finished)
            self._tenants.leave(plan.tenant, entered_s, time.monotonic(), ran=finished)
            if finished:
                self._suspects.forgive(plan.fingerprint)
            if self._metrics is not None:
                self._metrics.note_end(plan, ticket, deadline, feed, task)
            feed.end()

        task.add_done_callback(leave)
        return task

    def _admit(self, plan: GenerationPlan, entered_s: float) -> Ticket:
        """Returns the ticket of a request that may come in; see `start`."""
        try:
            self._suspects.check(plan.fingerprint)
            self._tenants.enter(plan.tenant, entered_s)
            try:
                return self.dispatcher.admit(_work(plan))
            except BaseException:
                self._tenants.leave(plan.tenant, entered_s, entered_s, ran=False)
                raise
        except MeshError as refusal:
            if self._metrics is not None:
                self._metrics.note_refusal(plan, refusal)
            raise

    async def _generate(
        self, plan: GenerationPlan, ticket: Ticket, feed: ProgressFeed
    ) -> GenerationResult:
        accepted_s = time.perf_counter()
        runs = self._runs(plan, ticket, feed)
        pictures = await self._all_pictures(runs, feed)
        started_s = min(run.started_s for run in runs if run.started_s is not None)
        return GenerationResult(
            plan=plan,
            pictures=pictures,
            queue_duration_s=started_s - accepted_s,
            total_duration_s=time.perf_counter() - accepted_s,
        )

    def _runs(self, plan: GenerationPlan, ticket: Ticket, feed: ProgressFeed) -> list[PictureRun]:
        return [
            PictureRun(
                self._stages,
                self.dispatcher,
                self._suspects,
                ticket.pictures[index],
                plan,
                seed,
                tracer=self._tracer,
                on_step=lambda step, index=index: feed.add_step(index, step),
            )
            for index, seed in enumerate(plan.seeds)
        ]

    async def _all_pictures(
        self, runs: list[PictureRun], feed: ProgressFeed
    ) -> tuple[Picture, ...]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._one_picture(run, index, feed))
                    for index, run in enumerate(runs)
                ]
        except BaseExceptionGroup as failed:
            # Siblings of the first failure were only cancelled because of it.
            raise failed.exceptions[0] from None
        return tuple(task.result() for task in tasks)

    async def _one_picture(self, run: PictureRun, index: int, feed: ProgressFeed) -> Picture:
        plan = run.plan
        attributes: dict[str, str | int | float] = {
            telemetry.IMAGE_INDEX: index,
            telemetry.MODEL_ID: plan.model_id,
            telemetry.TIER: plan.tier,
            telemetry.STEP_COUNT: plan.step_count,
            telemetry.SCHEDULER: plan.scheduler,
            telemetry.GUIDANCE_SCALE: plan.guidance_scale,
            telemetry.WIDTH_PX: plan.width_px,
            telemetry.HEIGHT_PX: plan.height_px,
        }
        with work_span(self._tracer, telemetry.SPAN_GENERATE_PICTURE, attributes):
            picture = await generate_picture(run, index)
        self._learn(run, picture)
        feed.add_picture(picture)
        return picture

    def _learn(self, run: PictureRun, picture: Picture) -> None:
        work, costs = _work(run.plan), self.dispatcher.scheduler.costs
        for stage in picture.runs:
            if stage.stage == HEAVY_STAGE:
                costs.observe_steps(work, stage.compute_seconds, stage.batch_row_count)
            elif not stage.cache_hit:
                costs.observe_call(stage.stage, work, stage.compute_seconds)


def _work(plan: GenerationPlan) -> Work:
    left_s = time_left()
    # A late start runs the last part of the schedule.
    step_count = max(1, int(plan.step_count * plan.strength))
    return Work(
        request_id=plan.request_id,
        model_id=plan.model_id,
        tier=plan.tier,
        tenant=plan.tenant,
        deadline_s=None if left_s is None else time.monotonic() + left_s,
        picture_count=len(plan.seeds),
        step_count=step_count,
        row_count=2 if plan.guided else 1,
        height_px=plan.height_px,
        width_px=plan.width_px,
    )
