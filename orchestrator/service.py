"""The orchestrator as a service: the public API over four stage services."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc

from ..services.runtime.errors import StageUnavailable
from ..services.runtime.telemetry import Telemetry
from .admission import Admission
from .catalogue import open_catalogue
from .gateway import ImageGenerationGateway
from .generation import Generator
from .settings import OrchestratorSettings
from .stages import Stages

POLL_INTERVAL_S = 0.05
_SERVICE = imaging.DESCRIPTOR.services_by_name["ImageGenerationService"].full_name
_log = structlog.get_logger()


class OrchestratorService:
    """Serves `ImageGenerationService`; ready once every stage is."""

    name = "orchestrator"
    service_names: Sequence[str] = (_SERVICE,)

    def __init__(self, settings: OrchestratorSettings) -> None:
        self._settings = settings
        self._stages: Stages | None = None
        self._catalogue = open_catalogue(settings.models, settings.cache_dir)

    def add_to_server(self, server: grpc.aio.Server, telemetry: Telemetry) -> None:
        """Registers the gateway."""
        settings = self._settings
        self._stages = Stages(settings, telemetry.tracer)
        admission = Admission(
            max_running=settings.max_running_requests, max_queued=settings.max_queued_requests
        )
        generator = Generator(self._stages, admission, telemetry.tracer)
        gateway = ImageGenerationGateway(
            self._catalogue, generator, max_picture_pixels=settings.max_picture_pixels
        )
        imaging_grpc.add_ImageGenerationServiceServicer_to_server(gateway, server)

    async def load(self) -> None:
        """Waits until every stage serves.

        Raises:
            StageUnavailable: one does not within `stage_start_timeout_s`.
        """
        if self._stages is None:
            raise RuntimeError("add_to_server comes first")
        timeout_s = self._settings.stage_start_timeout_s
        waits = [
            wait_until_serving(channel, f"{name} at {self._stages.addresses[name]}", timeout_s)
            for name, channel in self._stages.channels.items()
        ]
        await asyncio.gather(*waits)

    async def close(self) -> None:
        """Closes the channels to the stages."""
        if self._stages is not None:
            await self._stages.close()


async def wait_until_serving(channel: grpc.aio.Channel, name: str, timeout_s: float) -> None:
    """Returns once the server behind a channel says SERVING.

    Raises:
        StageUnavailable: it does not in time; the message has the last answer.
    """
    stub: Any = health_pb2_grpc.HealthStub(channel)
    deadline = time.monotonic() + timeout_s
    answer = "no answer"
    while time.monotonic() < deadline:
        try:
            response = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
        except grpc.aio.AioRpcError as error:
            answer = error.code().name
        else:
            if response.status == health_pb2.HealthCheckResponse.SERVING:
                return
            answer = "NOT_SERVING"
        await asyncio.sleep(POLL_INTERVAL_S)
    raise StageUnavailable(
        f"{name} did not serve within {timeout_s:g} s ({answer})", metadata={"answer": answer}
    )
