"""`PostprocessingService`: finds the model, calls it, converts."""

import asyncio
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import grpc
import structlog
from opentelemetry import trace

from sangsang.stages.v1alpha1 import postprocessing_service_pb2 as messages
from sangsang.stages.v1alpha1 import postprocessing_service_pb2_grpc as services

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
from .converters import to_picture_request, to_response
from .decoder import LatentDecoder
from .finisher import PictureFinisher
from .settings import PostprocessingSettings

MAX_BATCH_SIZE = 4

_log = structlog.get_logger()


class PostprocessingStage(services.PostprocessingServiceServicer):
    """The postprocessing service of one process, all its models included."""

    name = "postprocessing"
    service_names: Sequence[str] = (
        messages.DESCRIPTOR.services_by_name["PostprocessingService"].full_name,
    )

    def __init__(self, settings: PostprocessingSettings) -> None:
        self._settings = settings
        pending = settings.max_pending_calls
        self._engine_worker = EngineWorker(self.name, max_pending=pending)
        self._encoding_worker = EngineWorker(
            "encoding", thread_count=settings.encoding_threads, max_pending=pending
        )
        self._finishers: dict[str, PictureFinisher] = {}
        self._loaded = False

    async def DecodeLatents(  # noqa: N802 gRPC's name
        self,
        request: messages.DecodeLatentsRequest,
        context: grpc.aio.ServicerContext,  # noqa: ARG002 the interceptor's business
    ) -> messages.DecodeLatentsResponse:
        """Returns the encoded picture of some latents."""
        finisher = self._find(request.model_id)
        decoder = finisher.decoder
        picture_request = to_picture_request(
            request, folder=decoder.folder, max_side_px=self._settings.max_side_px
        )
        picture = await finisher.finish(picture_request)
        trace.get_current_span().set_attributes(
            {
                telemetry.WIDTH_PX: picture.width_px,
                telemetry.HEIGHT_PX: picture.height_px,
                telemetry.QUEUE_SECONDS: picture.queue_seconds,
                telemetry.COMPUTE_SECONDS: picture.compute_seconds,
            }
        )
        return to_response(picture, request.mime_type, decoder.engine)

    def add_to_server(self, server: grpc.aio.Server, telemetry: Telemetry) -> None:  # noqa: ARG002
        """Registers the service, and its engines over the Open Inference Protocol."""
        services.add_PostprocessingServiceServicer_to_server(self, server)
        identity = ServerIdentity(f"sangsang-{self.name}", version("sangsang"))
        handler = open_inference_handler(
            self._served_engines, ready=lambda: self._loaded, identity=identity
        )
        server.add_generic_rpc_handlers((handler,))

    async def load(self) -> None:
        """Loads every model and runs each decoder once.

        Raises:
            ModelNotReady: there is no model, one cannot be served, or two have the same ID.
        """
        if not self._settings.models:
            raise ModelNotReady("no model to serve; set SANGSANG_MODELS to its folder")
        for path in self._settings.models:
            finisher = await self._engine_worker.run(self._open, path)
            decoder = finisher.decoder
            model_id = decoder.folder.model_id
            if model_id in self._finishers:
                raise ModelNotReady(f"{path}: there is another model {model_id!r}; rename one")
            self._finishers[model_id] = finisher
            await finisher.warm_up()
            _log.info("model_loaded", model_id=model_id, engine=decoder.engine.backend)
        self._loaded = True

    async def close(self) -> None:
        """Waits for what runs and frees the engines."""
        self._loaded = False
        for worker in (self._engine_worker, self._encoding_worker):
            await asyncio.to_thread(worker.close)
        for finisher in self._finishers.values():
            finisher.decoder.engine.close()

    def _open(self, path: Path) -> PictureFinisher:
        folder = ModelFolder.open(path)
        settings = self._settings
        engine = load_engine(
            folder,
            "vae_decoder",
            backend=settings.backend,
            threads=settings.engine_threads,
            cache=settings.cache_dir,
        )
        return PictureFinisher(
            LatentDecoder(folder, engine),
            engine_worker=self._engine_worker,
            encoding_worker=self._encoding_worker,
            marked=settings.mark_generated,
            png_compress_level=settings.png_compress_level,
        )

    def _find(self, model_id: str) -> PictureFinisher:
        """Returns a model's finisher, and notes the model in the span and the log.

        Raises:
            StageUnavailable: the models are still being loaded.
            ModelNotFound: there is no such model.
        """
        if not self._loaded:
            raise StageUnavailable("the service is still loading its models", retry_delay_s=1.0)
        finisher = self._finishers.get(model_id)
        if finisher is None:
            raise ModelNotFound(model_id, sorted(self._finishers))
        structlog.contextvars.bind_contextvars(model_id=model_id)
        trace.get_current_span().set_attributes(
            {
                telemetry.MODEL_ID: model_id,
                telemetry.STAGE: self.name,
                telemetry.ENGINE: finisher.decoder.engine.backend,
                telemetry.PRECISION: finisher.decoder.engine.precision,
            }
        )
        return finisher

    def _served_engines(self) -> dict[str, ServedEngine]:
        runner = WorkerRunner(self._engine_worker)
        return {
            f"{model_id}.{finisher.decoder.engine.name}": ServedEngine(
                finisher.decoder.engine, runner, max_batch_size=MAX_BATCH_SIZE
            )
            for model_id, finisher in self._finishers.items()
        }
