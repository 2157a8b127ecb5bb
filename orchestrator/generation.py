"""One request from its admission to its last picture."""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

from opentelemetry import trace

from ..services.runtime import telemetry
from .admission import Admission
from .pipeline import Picture, generate_picture
from .plan import GenerationPlan
from .progress import ProgressFeed
from .stages import Stages


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """All pictures of a request, ordered by index, and its times."""

    plan: GenerationPlan
    pictures: tuple[Picture, ...]
    queue_duration_s: float
    total_duration_s: float


class Generator:
    """Runs requests: admission, then all pictures of a request side by side."""

    def __init__(self, stages: Stages, admission: Admission, tracer: trace.Tracer) -> None:
        self._stages = stages
        self._tracer = tracer
        self.admission = admission

    async def generate(self, plan: GenerationPlan, feed: ProgressFeed) -> GenerationResult:
        """Returns the finished pictures; `feed` is told of each step and picture, and ended.

        Raises:
            Overloaded: the queue is full.
            MeshError: a picture failed; its siblings are cancelled.
        """
        accepted_at = time.perf_counter()
        try:
            async with AsyncExitStack() as stack:
                # The span covers the wait alone; the slot is held until the pictures are done.
                with self._tracer.start_as_current_span(telemetry.SPAN_ADMISSION_WAIT):
                    await stack.enter_async_context(self.admission.slot())
                started_at = time.perf_counter()
                pictures = await self._all_pictures(plan, feed)
        finally:
            feed.end()
        return GenerationResult(
            plan=plan,
            pictures=pictures,
            queue_duration_s=started_at - accepted_at,
            total_duration_s=time.perf_counter() - accepted_at,
        )

    async def _all_pictures(self, plan: GenerationPlan, feed: ProgressFeed) -> tuple[Picture, ...]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._one_picture(plan, index, feed))
                    for index in range(len(plan.seeds))
                ]
        except BaseExceptionGroup as failed:
            # Siblings of the first failure were only cancelled because of it.
            raise failed.exceptions[0] from None
        return tuple(task.result() for task in tasks)

    async def _one_picture(self, plan: GenerationPlan, index: int, feed: ProgressFeed) -> Picture:
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
            picture = await generate_picture(
                self._stages, plan, index, lambda step: feed.add_step(index, step)
            )
        feed.add_picture(picture)
        return picture
