"""One picture's calls: each waits for a lane, goes to the replica there, and moves if that dies.

Stages are pure: the same request with the same seed gives the same bytes wherever it runs. So a
call whose replica dies under it is made again if the time suffices and there is another one, but
only once: the replica may have died of it. A call that a replica leaves, refuses or does not answer
is made again a few times, on another one, or on the same when that is the only one and comes back.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from opentelemetry import trace

from ..services.runtime import telemetry
from ..services.runtime.deadlines import current_deadline, time_left
from ..services.runtime.errors import DeadlinePassed, StageLost, StageUnavailable
from ..services.runtime.span_status import work_span
from .dispatcher import Dispatcher
from .plan import GenerationPlan
from .scheduling.work import Grant, Picture, StageName
from .stages import DenoiseStep, Embeddings, EncodedImage, Latents, PreparedLatents, Stages
from .suspects import Suspects

# Replicas that may die under a call, and how often it is made in all.
DEATHS = 2
CALLS = 4
# Until the health of a replica that has just gone is known to all.
_NOTICE_S = 0.25

T = TypeVar("T")


class PictureRun:
    """The stages as one picture sees them.

    Attributes:
        started_s: when its first call got a lane, on `time.perf_counter`; None before.

    Args:
        stages: all replicas.
        dispatcher: gives lanes.
        suspects: told when a replica died under a call; keeps what died before apart.
        picture: what the lanes are for.
        plan: the request.
        seed: of the picture.
        tracer: makes the spans of the waits.
        on_step: called after each denoising step, with counts that never fall.
    """

    def __init__(
        self,
        stages: Stages,
        dispatcher: Dispatcher,
        suspects: Suspects,
        picture: Picture,
        plan: GenerationPlan,
        seed: int,
        *,
        tracer: trace.Tracer,
        on_step: Callable[[DenoiseStep], None],
    ) -> None:
        self.plan = plan
        self.seed = seed
        self._stages = stages
        self._dispatcher = dispatcher
        self._picture = picture
        self._tracer = tracer
        self._on_step = on_step
        self._suspects = suspects
        self._shown_step_count = 0
        self.started_s: float | None = None

    async def encode_text(self, text: str) -> Embeddings:
        """Returns the embeddings of a text."""
        return await self._call(
            "text_encoding",
            lambda grant: self._stages.encode_text(grant, self.plan, text),
        )

    async def prepare_latents(self) -> PreparedLatents:
        """Returns the picture's noise, and the latents of the initial image if there is one."""
        return await self._call(
            "preprocessing",
            lambda grant: self._stages.prepare_latents(grant, self.plan, self.seed),
        )

    async def denoise(
        self, prompt: Embeddings, negative: Embeddings | None, start: PreparedLatents
    ) -> Latents:
        """Returns the denoised latents."""
        return await self._call(
            "diffusion",
            lambda grant: self._stages.denoise(
                grant,
                self.plan,
                self.seed,
                prompt,
                negative,
                start,
                self._dispatcher.scheduler.finish_reserve_s(grant.task.work),
                lambda step: self._note_step(grant, step),
            ),
        )

    async def decode_latents(self, latents: Latents) -> EncodedImage:
        """Returns the encoded picture."""
        return await self._call(
            "postprocessing",
            lambda grant: self._stages.decode_latents(grant, self.plan, self.seed, latents),
        )

    async def _call(self, stage: StageName, call: Callable[[Grant], Awaitable[T]]) -> T:
        failed: frozenset[str] = frozenset()
        deadline, deaths, calls = current_deadline(), 0, 0
        while True:
            tried_until_s = deadline.at_s
            async with (
                self._suspects.apart(self.plan.fingerprint, stage),
                self._lane(stage, failed) as grant,
            ):
                life, own = self._dispatcher.life_of(grant), frozenset({grant.address})
                calls += 1
                try:
                    return await self._answer(grant, call, may_move=calls < CALLS)
                except StageUnavailable as error:
                    others = self._dispatcher.knows_replica(stage, own)
                    if isinstance(error, StageLost):
                        self._suspects.blame(self.plan.fingerprint, life)
                        deaths += 1 if others else DEATHS
                    if deaths >= DEATHS or calls == CALLS or not _suffices(grant):
                        raise
                    failed = own if others else frozenset()
                except DeadlinePassed:
                    # Whoever has joined meanwhile may have more time than this call was given.
                    if deadline.at_s == tried_until_s:
                        raise
                    continue
            if not failed:
                await asyncio.sleep(_NOTICE_S)

    async def _answer(
        self, grant: Grant, call: Callable[[Grant], Awaitable[T]], *, may_move: bool
    ) -> T:
        """Returns the answer to a call; does not wait for a hung replica if another is there.

        Raises:
            StageUnavailable: the replica does not answer, and another one may.
        """
        loop, stage = asyncio.get_running_loop(), grant.task.stage
        own = frozenset({grant.address})
        try:
            async with asyncio.timeout(None) as patience:

                def give_up() -> None:
                    others = self._dispatcher.has_replica(stage, own)
                    if may_move and others and _suffices(grant):
                        patience.reschedule(loop.time())

                with self._dispatcher.told_of_silence(grant, give_up):
                    return await call(grant)
        except TimeoutError:
            text = f"{stage} at {grant.address} does not answer"
            raise StageUnavailable(text, metadata={"stage": stage}) from None

    @asynccontextmanager
    async def _lane(self, stage: StageName, failed: frozenset[str]) -> AsyncIterator[Grant]:
        started = self.started_s is not None
        name = telemetry.SPAN_LANE_WAIT if started else telemetry.SPAN_ADMISSION_WAIT
        async with AsyncExitStack() as stack:
            # The span covers the wait alone; the lane is held until the call has ended.
            with work_span(self._tracer, name, {telemetry.STAGE: stage}) as span:
                lane = self._dispatcher.lane(self._picture, stage, failed)
                grant = await stack.enter_async_context(lane)
                span.set_attributes({telemetry.DEVICE: grant.device, telemetry.LANE: grant.lane})
            if not started:
                self.started_s = time.perf_counter()
            yield grant

    def _note_step(self, grant: Grant, step: DenoiseStep) -> None:
        self._dispatcher.note_steps(grant, step.completed_step_count)
        # A picture that moved begins anew, which its caller need not see.
        if step.completed_step_count > self._shown_step_count:
            self._shown_step_count = step.completed_step_count
            self._on_step(step)


def _suffices(grant: Grant) -> bool:
    """Whether there is time to make a call once more."""
    left_s = time_left()
    return left_s is None or left_s > grant.seconds
