"""`PreprocessingService`: finds the model, calls it, converts."""

import asyncio
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import grpc
import structlog
from opentelemetry import trace

from sangsang.stages.v1alpha1 import preprocessing_service_pb2 as messages
from sangsang.stages.v1alpha1 import preprocessing_service_pb2_grpc as services

from ..runtime import telemetry
from ..runtime.engines.loading import load_engine
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
from .converters import to_latent_request, to_response
from .latents import LatentPreparer, PreparationWorkers
from .pictures import PictureLimits
from .settings import PreprocessingSettings

MAX_BATCH_SIZE = 4

_log = structlog.get_logger()


class PreprocessingStage(services.PreprocessingServiceServicer):
    """The preprocessing service of one process, all its models included."""

    name = "preprocessing"
    service_names: Sequence[str] = (
        messages.DESCRIPTOR.services_by_name["PreprocessingService"].full_name,
    )

    def __init__(self, settings: PreprocessingSettings) -> None:
        self._settings = settings
        pending = settings.max_pending_calls
        self._workers = PreparationWorkers(
            engine=EngineWorker(self.name, max_pending=pending),
            noise=EngineWorker("noise", max_pending=pending),
            pictures=EngineWorker(
                "pictures", thread_count=settings.picture_threads, max_pending=pending
            ),
        )
        self._limits = PictureLimits(
            max_bytes=settings.max_picture_bytes, max_pixels=settings.max_picture_pixels
        )
        self._preparers: dict[str, LatentPreparer] = {}
        self._loaded = False

    async def PrepareLatents(  # noqa: N802 gRPC's name
        self,
        request: messages.PrepareLatentsRequest,
        context: grpc.aio.ServicerContext,  # noqa: ARG002 the interceptor's business
    ) -> messages.PrepareLatentsResponse:
        """Returns the starting noise and, with a picture, its latents."""
        preparer = self._find(request.model_id)
        latent_request = to_latent_request(
            request,
            folder=preparer.folder,
            max_side_px=self._settings.max_side_px,
            limits=self._limits,
        )
        prepared = await preparer.prepare(latent_request)
        trace.get_current_span().set_attributes(
            {
                telemetry.WIDTH_PX: request.width_px,
                telemetry.HEIGHT_PX: request.height_px,
                telemetry.QUEUE_SECONDS: prepared.queue_seconds,
                telemetry.COMPUTE_SECONDS: prepared.compute_seconds,
            }
        )
        return to_response(prepared, preparer.engine)

    def add_to_server(self, server: grpc.aio.Server, telemetry: Telemetry) -> None:  # noqa: ARG002
        """Registers the service, and its engines over the Open Inference Protocol."""
        services.add_PreprocessingServiceServicer_to_server(self, server)
        identity = ServerIdentity(f"sangsang-{self.name}", version("sangsang"))
        handler = open_inference_handler(
            self._served_engines, ready=lambda: self._loaded, identity=identity
        )
        server.add_generic_rpc_handlers((handler,))

    async def load(self) -> None:
        """Loads every model and runs each encoder once.

        Raises:
            ModelNotReady: there is no model, one cannot be served, or two have the same ID.
        """
        if not self._settings.models:
            raise ModelNotReady("no model to serve; set SANGSANG_MODELS to its folder")
        for path in self._settings.models:
            preparer = await self._workers.engine.run(self._open, path)
            model_id = preparer.folder.model_id
            if model_id in self._preparers:
                raise ModelNotReady(f"{path}: there is another model {model_id!r}; rename one")
            self._preparers[model_id] = preparer
            await preparer.warm_up()
            _log.info("model_loaded", model_id=model_id, engine=preparer.engine.backend)
        self._loaded = True

    async def close(self) -> None:
        """Waits for what runs and frees the engines."""
        self._loaded = False
        await asyncio.to_thread(self._workers.close)
        for preparer in self._preparers.values():
            preparer.engine.close()

    def _open(self, path: Path) -> LatentPreparer:
        folder = ModelFolder.open(path)
        settings = self._settings
        engine = load_engine(
            folder,
            "vae_encoder",
            backend=settings.backend,
            threads=settings.engine_threads,
            cache=settings.cache_dir,
        )
        return LatentPreparer(folder, engine, workers=self._workers, limits=self._limits)

    def _find(self, model_id: str) -> LatentPreparer:
        """Returns a model's preparer, and notes the model in the span and the log.

        Raises:
            StageUnavailable: the models are still being loaded.
            ModelNotFound: there is no such model.
        """
        if not self._loaded:
            raise StageUnavailable("the service is still loading its models", retry_delay_s=1.0)
        preparer = self._preparers.get(model_id)
        if preparer is None:
            raise ModelNotFound(model_id, sorted(self._preparers))
        structlog.contextvars.bind_contextvars(model_id=model_id)
        trace.get_current_span().set_attributes(
            {
                telemetry.MODEL_ID: model_id,
                telemetry.STAGE: self.name,
                telemetry.ENGINE: preparer.engine.backend,
                telemetry.PRECISION: preparer.engine.precision,
            }
        )
        return preparer

    def _served_engines(self) -> dict[str, ServedEngine]:
        runner = WorkerRunner(self._workers.engine)
        return {
            f"{model_id}.{preparer.engine.name}": ServedEngine(
                preparer.engine, runner, max_batch_size=MAX_BATCH_SIZE
            )
            for model_id, preparer in self._preparers.items()
        }
