"""`PostprocessingService`: finds the model, calls it, converts."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import grpc
from opentelemetry import trace

from sangsang.stages.v1alpha1 import postprocessing_service_pb2 as messages
from sangsang.stages.v1alpha1 import postprocessing_service_pb2_grpc as services

from ..runtime import telemetry
from ..runtime.engines.engine import Engine
from ..runtime.model_stage import ModelStage
from ..runtime.models.folder import ModelFolder
from ..runtime.telemetry import Telemetry
from ..runtime.worker import EngineWorker
from .converters import to_picture_request, to_response
from .decoder import LatentDecoder
from .finisher import PictureFinisher
from .settings import PostprocessingSettings

MAX_BATCH_SIZE = 4


class PostprocessingStage(ModelStage[PictureFinisher], services.PostprocessingServiceServicer):
    """The postprocessing service of one process, all its models included."""

    name = "postprocessing"
    service_names: Sequence[str] = (
        messages.DESCRIPTOR.services_by_name["PostprocessingService"].full_name,
    )

    def __init__(self, settings: PostprocessingSettings) -> None:
        self._settings = settings
        pending = settings.max_pending_calls
        worker = EngineWorker(self.name, max_pending=pending)
        super().__init__(settings, worker, max_batch_size=MAX_BATCH_SIZE)
        self._encoding_worker = EngineWorker(
            "encoding", thread_count=settings.encoding_threads, max_pending=pending
        )

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

    def add_to_server(self, server: grpc.aio.Server, telemetry: Telemetry) -> None:
        """Registers the service, and its engines over the Open Inference Protocol."""
        services.add_PostprocessingServiceServicer_to_server(self, server)
        self._add_engines(server, telemetry)

    async def close(self) -> None:
        """Waits for what runs and frees the engines."""
        await super().close()
        await asyncio.to_thread(self._encoding_worker.close)

    def _open(self, path: Path) -> tuple[str, PictureFinisher]:
        folder = ModelFolder.open(path)
        engine = self._load_engine(folder, "vae_decoder")
        finisher = PictureFinisher(
            LatentDecoder(folder, engine),
            engine_worker=self._worker,
            encoding_worker=self._encoding_worker,
            marked=self._settings.mark_generated,
            png_compress_level=self._settings.png_compress_level,
        )
        return folder.model_id, finisher

    @property
    def _all_workers(self) -> Sequence[EngineWorker]:
        return [self._worker, self._encoding_worker]

    async def _warm_up(self, model: PictureFinisher) -> None:
        await model.warm_up()

    def _engine(self, model: PictureFinisher) -> Engine:
        return model.decoder.engine
