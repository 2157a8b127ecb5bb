"""`DiffusionService`: finds the model's loop, submits the job, converts its events."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import grpc
import structlog
from opentelemetry import trace

from sangsang.stages.v1alpha1 import diffusion_service_pb2 as messages
from sangsang.stages.v1alpha1 import diffusion_service_pb2_grpc as services

from ..runtime import telemetry
from ..runtime.errors import ModelNotFound, ModelNotReady, StageUnavailable
from ..runtime.models.folder import ModelFolder
from ..runtime.open_inference import (
    ServedEngine,
    ServerIdentity,
    WorkerRunner,
    open_inference_handler,
)
from ..runtime.telemetry import Telemetry
from ..runtime.worker import EngineWorker
from .converters import to_job, to_progress, to_result
from .jobs import Finished
from .models import DiffusionModel
from .settings import DiffusionSettings
from .step_loop import BatchStep
from .tracing import BatchTracer

_log = structlog.get_logger()


class DiffusionStage(services.DiffusionServiceServicer):
    """The diffusion service of one process, all its models included.

    Args:
        settings: of the process.
        observer: called on the event loop after every step of a batch, e.g. to trace it.
    """

    name = "diffusion"
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
        self._worker = EngineWorker(self.name, max_pending=settings.max_pending_calls)
        self._models: dict[str, DiffusionModel] = {}
        self._loaded = False

    async def Denoise(  # noqa: N802 gRPC's name
        self,
        request: messages.DenoiseRequest,
        context: grpc.aio.ServicerContext,  # noqa: ARG002 the interceptor's business
    ) -> AsyncIterator[messages.DenoiseResponse]:
        """Yields each step, then the latents; closing it takes the rows out of the loop."""
        model = self._find(request)
        span = trace.get_current_span()
        job = to_job(request, model.tables, model.limits, trace=span.get_span_context())
        async with model.loop.submit(job) as events:
            async for event in events:
                if isinstance(event, Finished):
                    _note_usage(span, event)
                    yield to_result(event, model.engine)
                else:
                    yield to_progress(event)

    def add_to_server(self, server: grpc.aio.Server, telemetry: Telemetry) -> None:
        """Registers the service, and its engines over the Open Inference Protocol."""
        self._observer = self._observer or BatchTracer(telemetry.tracer)
        services.add_DiffusionServiceServicer_to_server(self, server)
        identity = ServerIdentity(f"sangsang-{self.name}", version("sangsang"))
        handler = open_inference_handler(
            self._served_engines, ready=lambda: self._loaded, identity=identity
        )
        server.add_generic_rpc_handlers((handler,))

    async def load(self) -> None:
        """Loads every model and runs each UNet once.

        Raises:
            ModelNotReady: a folder cannot be served, or two have the same ID.
        """
        for path in self._settings.models:
            model = await self._worker.run(self._open, path)
            model_id = model.folder.model_id
            if model_id in self._models:
                raise ModelNotReady(f"{path}: there is another model {model_id!r}; rename one")
            self._models[model_id] = model
            await self._worker.run(model.warm_up)
            _log.info("model_loaded", model_id=model_id, engine=model.engine.backend)
        self._loaded = True

    async def close(self) -> None:
        """Ends what is left in the loops and frees the engines."""
        self._loaded = False
        await asyncio.gather(*(model.loop.close() for model in self._models.values()))
        await asyncio.to_thread(self._worker.close)
        for model in self._models.values():
            model.engine.close()

    def _open(self, path: Path) -> DiffusionModel:
        folder = ModelFolder.open(path)
        return DiffusionModel.open(folder, self._settings, self._worker, self._observer)

    def _find(self, request: messages.DenoiseRequest) -> DiffusionModel:
        """Returns a request's model, and notes both in the span and the log.

        Raises:
            StageUnavailable: the models are still being loaded.
            ModelNotFound: there is no such model.
        """
        if not self._loaded:
            raise StageUnavailable("the service is still loading its models", retry_delay_s=1.0)
        model = self._models.get(request.model_id)
        if model is None:
            raise ModelNotFound(request.model_id, sorted(self._models))
        structlog.contextvars.bind_contextvars(model_id=request.model_id)
        trace.get_current_span().set_attributes(
            {
                telemetry.MODEL_ID: request.model_id,
                telemetry.STAGE: self.name,
                telemetry.SCHEDULER: request.scheduler[:40],
                telemetry.STEP_COUNT: request.step_count,
                telemetry.GUIDANCE_SCALE: request.guidance_scale,
                telemetry.ENGINE: model.engine.backend,
                telemetry.PRECISION: model.engine.precision,
            }
        )
        return model

    def _served_engines(self) -> dict[str, ServedEngine]:
        runner = WorkerRunner(self._worker)
        return {
            f"{model_id}.{model.engine.name}": ServedEngine(
                model.engine, runner, max_batch_size=self._settings.batch_row_limit
            )
            for model_id, model in self._models.items()
        }


def _note_usage(span: trace.Span, finished: Finished) -> None:
    span.set_attributes(
        {
            telemetry.QUEUE_SECONDS: finished.usage.queue_seconds,
            telemetry.COMPUTE_SECONDS: finished.usage.compute_seconds,
            telemetry.BATCH_ROWS: finished.usage.mean_batch_row_count,
        }
    )
