"""`PreprocessingService`: finds the model, calls it, converts."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import grpc
from opentelemetry import trace

from sangsang.stages.v1alpha1 import preprocessing_service_pb2 as messages
from sangsang.stages.v1alpha1 import preprocessing_service_pb2_grpc as services

from ..runtime import telemetry
from ..runtime.engines.engine import Engine
from ..runtime.model_stage import ModelStage
from ..runtime.models.folder import ModelFolder
from ..runtime.picture_checks import PictureLimits
from ..runtime.telemetry import Telemetry
from ..runtime.worker import EngineWorker
from .converters import to_latent_request, to_response
from .latents import LatentPreparer, PreparationWorkers
from .settings import PreprocessingSettings

MAX_BATCH_SIZE = 4


class PreprocessingStage(ModelStage[LatentPreparer], services.PreprocessingServiceServicer):
    """The preprocessing service of one process, all its models included."""

    name = "preprocessing"
    service_names: Sequence[str] = (
        messages.DESCRIPTOR.services_by_name["PreprocessingService"].full_name,
    )

    def __init__(self, settings: PreprocessingSettings) -> None:
        self._settings = settings
        pending = settings.max_pending_calls
        worker = EngineWorker(self.name, max_pending=pending)
        super().__init__(settings, worker, max_batch_size=MAX_BATCH_SIZE)
        self._workers = PreparationWorkers(
            engine=worker,
            noise=EngineWorker("noise", max_pending=pending),
            pictures=EngineWorker(
                "pictures", thread_count=settings.picture_threads, max_pending=pending
            ),
        )
        self._limits = PictureLimits(
            max_bytes=settings.max_picture_bytes, max_pixels=settings.max_picture_pixels
        )

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

    def add_to_server(self, server: grpc.aio.Server, telemetry: Telemetry) -> None:
        """Registers the service, and its engines over the Open Inference Protocol."""
        services.add_PreprocessingServiceServicer_to_server(self, server)
        self._add_engines(server, telemetry)

    async def close(self) -> None:
        """Waits for what runs and frees the engines."""
        self._loaded = False
        await asyncio.to_thread(self._workers.close)
        await super().close()

    def _open(self, path: Path) -> tuple[str, LatentPreparer]:
        folder = ModelFolder.open(path)
        engine = self._load_engine(folder, "vae_encoder")
        preparer = LatentPreparer(folder, engine, workers=self._workers, limits=self._limits)
        return folder.model_id, preparer

    @property
    def _all_workers(self) -> Sequence[EngineWorker]:
        return [self._worker, self._workers.noise, self._workers.pictures]

    async def _warm_up(self, model: LatentPreparer) -> None:
        await model.warm_up()

    def _engine(self, model: LatentPreparer) -> Engine:
        return model.engine
