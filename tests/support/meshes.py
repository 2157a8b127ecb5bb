"""Meshes for tests: in this process, with every span kept, or as five real processes."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from hosting import Spans, hosted

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc
from sangsang.orchestrator.service import OrchestratorService
from sangsang.orchestrator.settings import OrchestratorSettings
from sangsang.services.diffusion.servicer import DiffusionStage
from sangsang.services.diffusion.settings import DiffusionSettings
from sangsang.services.postprocessing.servicer import PostprocessingStage
from sangsang.services.postprocessing.settings import PostprocessingSettings
from sangsang.services.preprocessing.servicer import PreprocessingStage
from sangsang.services.preprocessing.settings import PreprocessingSettings
from sangsang.services.runtime.calls import open_channel
from sangsang.services.runtime.server import ServiceHost
from sangsang.services.runtime.settings import MEBIBYTE
from sangsang.services.text_encoding.servicer import TextEncodingStage
from sangsang.services.text_encoding.settings import TextEncodingSettings

STAGES = {
    "text_encoding": (TextEncodingStage, TextEncodingSettings),
    "preprocessing": (PreprocessingStage, PreprocessingSettings),
    "diffusion": (DiffusionStage, DiffusionSettings),
    "postprocessing": (PostprocessingStage, PostprocessingSettings),
}
MAX_MESSAGE_BYTES = 64 * MEBIBYTE


def every_stage(**fields: object) -> dict[str, dict[str, object]]:
    """Overrides of `mesh_in_process` that are the same for all four stages."""
    return {name: dict(fields) for name in STAGES}


@dataclass
class Mesh:
    """A running mesh and a client of it."""

    stub: imaging_grpc.ImageGenerationServiceStub
    spans: Spans
    hosts: dict[str, ServiceHost] = field(default_factory=dict)
    stages: dict[str, object] = field(default_factory=dict)

    async def generate(
        self,
        *,
        timeout: float = 120.0,
        request_id: str = "",
        tenant: str | None = None,
        **fields: object,
    ) -> imaging.GenerateImagesResponse:
        request = imaging.GenerateImagesRequest(
            spec=imaging.ImageSpec(**fields), request_id=request_id
        )
        metadata = () if tenant is None else (("sangsang-tenant", tenant),)
        return await self.stub.GenerateImages(request, timeout=timeout, metadata=metadata)

    def stream(self, *, timeout: float = 120.0, previews: int = 0, **fields: object):
        request = imaging.StreamGenerateImagesRequest(
            spec=imaging.ImageSpec(**fields), preview_interval_step_count=previews
        )
        return self.stub.StreamGenerateImages(request, timeout=timeout)


@asynccontextmanager
async def mesh_in_process(
    models: list[Path],
    cache_dir: Path,
    *,
    overrides: Mapping[str, Mapping[str, object]] | None = None,
) -> AsyncIterator[Mesh]:
    """Five services on this event loop, on loopback ports of their own."""
    shared = {
        "models": tuple(models),
        "cache_dir": cache_dir,
        "lame_duck_s": 0.0,
        "max_message_bytes": MAX_MESSAGE_BYTES,
    }
    overrides = overrides or {}
    spans = Spans()
    async with AsyncExitStack() as stack:
        hosts: dict[str, ServiceHost] = {}
        stages: dict[str, object] = {}
        for name, (stage_class, settings_class) in STAGES.items():
            settings = settings_class(port=0, **shared, **overrides.get(name, {}))
            stages[name] = stage_class(settings)
            hosts[name] = await stack.enter_async_context(hosted(stages[name], settings, spans))
        addresses = {f"{name}_address": f"127.0.0.1:{host.port}" for name, host in hosts.items()}
        settings = OrchestratorSettings(
            port=0, **shared, **addresses, **overrides.get("orchestrator", {})
        )
        service = OrchestratorService(settings)
        host = await stack.enter_async_context(hosted(service, settings, spans))
        address = f"127.0.0.1:{host.port}"
        channel = open_channel(address, max_message_bytes=MAX_MESSAGE_BYTES)
        await stack.enter_async_context(channel)
        stub = imaging_grpc.ImageGenerationServiceStub(channel)
        yield Mesh(stub, spans, {**hosts, "orchestrator": host}, stages)


def status_of(error: grpc.aio.AioRpcError) -> tuple[str, str]:
    return error.code().name, error.details() or ""
