"""One request from its admission to its last picture."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from opentelemetry import trace

from ..services.runtime import telemetry
from ..services.runtime.deadlines import time_left
from .dispatcher import Dispatcher
from .picture_run import PictureRun
from .pipeline import Picture, generate_picture
from .plan import GenerationPlan
from .progress import ProgressFeed
from .scheduling.work import HEAVY_STAGE, Ticket, Work
from .stages import Stages


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
        tracer: makes the spans.
        on_lost: told of a request that a stage replica died under.
    """

    def __init__(
        self,
        stages: Stages,
        dispatcher: Dispatcher,
        tracer: trace.Tracer,
        *,
        on_lost: Callable[[GenerationPlan], None] = lambda _: None,
    ) -> None:
        self._stages = stages
        self._tracer = tracer
        self.dispatcher = dispatcher
        self._on_lost = on_lost

    def check(self, plan: GenerationPlan) -> int:
        """Returns how many requests wait ahead of one that would come now.

        Raises:
            MeshError: it would be refused.
        """
        ahead = self.dispatcher.scheduler.backlog.waiting
        self.dispatcher.leave(self.dispatcher.admit(_work(plan)), finished=False)
        return ahead

    async def generate(self, plan: GenerationPlan, feed: ProgressFeed) -> GenerationResult:
        """Returns the finished pictures; `feed` is told of each step and picture, and ended.

        Raises:
            Overloaded: too much waits.
            DeadlineTooShort: it cannot be done in its time.
            MeshError: a picture failed; its siblings are cancelled.
        """
        accepted_s = time.perf_counter()
        try:
            ticket, finished = self.dispatcher.admit(_work(plan)), False
            try:
                runs = self._runs(plan, ticket, feed)
                pictures = await self._all_pictures(runs, feed)
                finished = True
            finally:
                self.dispatcher.leave(ticket, finished=finished)
        finally:
            feed.end()
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
                ticket.pictures[index],
                plan,
                seed,
                tracer=self._tracer,
                on_step=lambda step, index=index: feed.add_step(index, step),
                on_lost=lambda: self._on_lost(plan),
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
        with self._tracer.start_as_current_span(
            telemetry.SPAN_GENERATE_PICTURE, attributes=attributes
        ):
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
