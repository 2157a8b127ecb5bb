"""`DiffusionService`: finds the model's loop, submits the job, converts its events."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import grpc
from opentelemetry import trace

from sangsang.stages.v1alpha1 import diffusion_service_pb2 as messages
from sangsang.stages.v1alpha1 import diffusion_service_pb2_grpc as services

from ..runtime import telemetry
from ..runtime.engines.engine import Engine
from ..runtime.metrics.registry import Metrics
from ..runtime.model_stage import ModelStage
from ..runtime.models.folder import ModelFolder
from ..runtime.telemetry import Telemetry
from ..runtime.worker import EngineWorker
from .converters import to_job, to_progress, to_result, to_weights
from .jobs import Finished
from .models import DiffusionModel
from .settings import DiffusionSettings
from .step_metrics import StepMetrics
from .stepper import BatchStep
from .tracing import BatchTracer, MemberTrace


class DiffusionStage(ModelStage[DiffusionModel], services.DiffusionServiceServicer):
    """The diffusion service of one process, all its models included.

    Args:
        settings: of the process.
        observer: called on the engine's thread after every step of a batch, e.g. to trace it.
    """

    name = "diffusion"
    # Every picture needs many steps of it and little of the other stages.
    high_priority = True
    service_names: Sequence[str] = (
        messages.DESCRIPTOR.services_by_name["DiffusionService"].full_name,
    )

    def __init__(
        self,
        settings: DiffusionSettings,
        observer: Callable[[BatchStep], None] | None = None,
    ) -> None:
        self._settings = settings
        self._observer = observer
        self._steps: StepMetrics | None = None
        worker = EngineWorker(self.name, max_pending=settings.max_pending_calls)
        super().__init__(settings, worker, max_batch_size=settings.batch_row_limit)

    async def Denoise(  # noqa: N802 gRPC's name
        self,
        request: messages.DenoiseRequest,
        context: grpc.aio.ServicerContext,  # noqa: ARG002 the interceptor's business
    ) -> AsyncIterator[messages.DenoiseResponse]:
        """Yields each step, then the latents; closing it takes the rows out of the loop."""
        model = self._find(request.model_id)
        span = trace.get_current_span()
        _note_request(span, request)
        member = MemberTrace(span)
        job = to_job(request, model.tables, model.limits, trace=member)
        unet = model.find(to_weights(request))
        try:
            async with unet.loop.submit(job) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        _note_usage(span, event)
                        yield to_result(event, unet.engine)
                    else:
                        yield to_progress(event)
        finally:
            member.link_steps()

    def measure(self, metrics: Metrics) -> None:
        """Counts what its worker and its step loops do."""
        super().measure(metrics)
        self._steps = StepMetrics(metrics, lambda: self._models)

    def add_to_server(self, server: grpc.aio.Server, telemetry: Telemetry) -> None:
        """Registers the service, and its engines over the Open Inference Protocol."""
        if self._observer is None and telemetry.records:
            self._observer = BatchTracer(telemetry.tracer)
        services.add_DiffusionServiceServicer_to_server(self, server)
        self._add_engines(server, telemetry)

    async def close(self) -> None:
        """Ends what is left in the loops and frees the engines."""
        self._loaded = False
        loops = [unet.loop for model in self._models.values() for unet in model.loops]
        await asyncio.gather(*(loop.close() for loop in loops))
        await super().close()

    def _open(self, path: Path) -> tuple[str, DiffusionModel]:
        folder = ModelFolder.open(path)
        model = DiffusionModel.open(
            folder,
            lambda unet: self._load_engine(unet, "unet"),
            self._settings,
            self._worker,
            self._observer_of(folder.model_id),
        )
        return folder.model_id, model

    def _observer_of(self, model_id: str) -> Callable[[BatchStep], None] | None:
        """Returns what calls everyone who wants to know of a model's steps; None for nobody."""
        counted = None if self._steps is None else self._steps.observer_of(model_id)
        observers = [one for one in (counted, self._observer) if one is not None]
        if len(observers) < 2:
            return next(iter(observers), None)

        def observe(step: BatchStep) -> None:
            for observer in observers:
                observer(step)

        return observe

    async def _warm_up(self, model: DiffusionModel) -> None:
        await self._worker.run(model.warm_up)

    def _engine(self, model: DiffusionModel) -> Engine:
        return model.engine

    def _engines(self, model: DiffusionModel) -> Sequence[Engine]:
        return [unet.engine for unet in model.loops]


def _note_request(span: trace.Span, request: messages.DenoiseRequest) -> None:
    span.set_attributes(
        {
            telemetry.SCHEDULER: request.scheduler[:40],
            telemetry.STEP_COUNT: request.step_count,
            telemetry.GUIDANCE_SCALE: request.guidance_scale,
            telemetry.TIER: request.tier,
            telemetry.TENANT: request.tenant,
            telemetry.REQUEST_ID: request.request_id,
        }
    )


def _note_usage(span: trace.Span, finished: Finished) -> None:
    span.set_attributes(
        {
            telemetry.QUEUE_SECONDS: finished.usage.queue_seconds,
            telemetry.COMPUTE_SECONDS: finished.usage.compute_seconds,
            telemetry.BATCH_ROWS: finished.usage.mean_batch_row_count,
        }
    )
