"""The public API: convert, generate, convert."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry import trace

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc

from ..services.runtime import telemetry
from .catalogue import Catalogue
from .converters import to_image, to_model, to_progress, to_stats
from .generation import Generator
from .kept_results import KeepLimits
from .pipeline import Picture
from .plan import GenerationPlan
from .shared_requests import SharedRequests
from .validation import TENANT_KEY, make_plan

# Of a request whose caller sees no progress: the scheduler alone wants to know how far it is.
UNWATCHED_PROGRESS_INTERVAL_MS = 250


class ImageGenerationGateway(imaging_grpc.ImageGenerationServiceServicer):
    """Answers product back ends."""

    def __init__(
        self,
        catalogue: Catalogue,
        generator: Generator,
        keep_limits: KeepLimits,
        *,
        max_picture_pixels: int,
        trace_prompts: bool = False,
    ) -> None:
        self._trace_prompts = trace_prompts
        self._catalogue = catalogue
        self._max_picture_pixels = max_picture_pixels
        self._generator = generator
        self._requests = SharedRequests(generator.start, keep_limits)

    async def ListModels(self, request: imaging.ListModelsRequest, context: Any) -> Any:  # noqa: N802 the RPC's name
        return imaging.ListModelsResponse(models=map(to_model, self._catalogue.models))

    async def GenerateImages(self, request: imaging.GenerateImagesRequest, context: Any) -> Any:  # noqa: N802 the RPC's name
        plan = make_plan(
            request.spec,
            self._catalogue,
            request_id=request.request_id,
            tenant=_tenant(context),
            min_progress_interval_ms=UNWATCHED_PROGRESS_INTERVAL_MS,
            max_picture_pixels=self._max_picture_pixels,
        )
        self._note_request(plan)
        async with self._requests.join(plan, keep=bool(request.request_id)) as (shared, joined):
            _note_joined(joined=joined)
            result = await shared.result()
        return imaging.GenerateImagesResponse(
            images=map(to_image, result.pictures),
            stats=to_stats(result),
            request_id=plan.request_id,
        )

    async def StreamGenerateImages(  # noqa: N802 name of the RPC
        self, request: imaging.StreamGenerateImagesRequest, context: Any
    ) -> AsyncIterator[imaging.StreamGenerateImagesResponse]:
        plan = make_plan(
            request.spec,
            self._catalogue,
            request_id=request.request_id,
            tenant=_tenant(context),
            preview_interval_step_count=request.preview_interval_step_count,
            max_picture_pixels=self._max_picture_pixels,
        )
        self._note_request(plan)
        ahead = self._generator.waiting_count
        async with self._requests.join(plan, keep=bool(request.request_id)) as (shared, joined):
            _note_joined(joined=joined)
            accepted = _accepted(plan, 0 if joined else ahead)
            yield imaging.StreamGenerateImagesResponse(accepted=accepted)
            async with aclosing(shared.feed.events()) as events:
                async for event in events:
                    yield _event(event, shared.plan)
            yield imaging.StreamGenerateImagesResponse(summary=to_stats(await shared.result()))

    def _note_request(self, plan: GenerationPlan) -> None:
        """Binds the request to the logs and the span; its prompt by length only."""
        span = trace.get_current_span()
        span.set_attributes(_traced_facts(plan))
        if self._trace_prompts:
            span.set_attribute(telemetry.GEN_AI_INPUT, _as_messages(plan.prompt))
        structlog.contextvars.bind_contextvars(
            request_id=plan.request_id,
            model_id=plan.model_id,
            tier=plan.tier,
            tenant=plan.tenant,
            step_count=plan.step_count,
            image_count=len(plan.seeds),
            prompt_length=len(plan.prompt),
        )


def _tenant(context: Any) -> str | None:
    """Returns whom a call's metadata says that it is for; None if it does not say."""
    return dict(context.invocation_metadata() or ()).get(TENANT_KEY)


def _event(event: Any, plan: GenerationPlan) -> imaging.StreamGenerateImagesResponse:
    if isinstance(event, Picture):
        return imaging.StreamGenerateImagesResponse(image=to_image(event))
    return imaging.StreamGenerateImagesResponse(progress=to_progress(event, plan))


def _accepted(plan: GenerationPlan, queue_position: int) -> imaging.GenerationAccepted:
    accept_time = Timestamp()
    accept_time.GetCurrentTime()
    return imaging.GenerationAccepted(
        request_id=plan.request_id, accept_time=accept_time, queue_position=queue_position
    )


def _note_joined(*, joined: bool) -> None:
    """Says in the log and the span whether the call joined a request that was there before."""
    trace.get_current_span().set_attribute(telemetry.JOINED, joined)
    structlog.contextvars.bind_contextvars(joined=joined)


def _traced_facts(plan: GenerationPlan) -> Mapping[str, str | int]:
    """Returns what the span says of a request: our own names, and those of generative AI."""
    return {
        telemetry.REQUEST_ID: plan.request_id,
        telemetry.MODEL_ID: plan.model_id,
        telemetry.TIER: plan.tier,
        telemetry.TENANT: plan.tenant,
        telemetry.GEN_AI_PROVIDER: "sangsang",
        # There is no operation of images yet; others who make pictures call it so too.
        telemetry.GEN_AI_OPERATION: "generate_content",
        telemetry.GEN_AI_OUTPUT: "image",
        telemetry.GEN_AI_MODEL: plan.model_id,
        telemetry.GEN_AI_COUNT: len(plan.seeds),
    }


def _as_messages(prompt: str) -> str:
    """Returns a prompt as the conventions have it: a user's message of one part."""
    parts = [{"type": "text", "content": prompt}]
    return json.dumps([{"role": "user", "parts": parts}], ensure_ascii=False)
