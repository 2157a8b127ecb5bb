"""Meshes for tests: in this process, with every span kept, or as five real processes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hosting import Spans, hosted

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc
from sangsang.orchestrator.service import OrchestratorService
from sangsang.orchestrator.settings import OrchestratorSettings
from sangsang.services.diffusion.servicer import DiffusionStage
from sangsang.services.diffusion.settings import DiffusionSettings
from sangsang.services.diffusion.stepper import LoopCounts
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


async def until(condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
    """Returns once `condition()` holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


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
    orchestrator: OrchestratorService | None = None

    def counts(self, model_id: str = "tiny") -> LoopCounts:
        """What the step loop of a model has done."""
        return self.stages["diffusion"]._models[model_id].loop.counts

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

    def stream(
        self,
        *,
        timeout: float = 120.0,
        previews: int = 0,
        request_id: str = "",
        tenant: str | None = None,
        **fields: object,
    ):
        request = imaging.StreamGenerateImagesRequest(
            spec=imaging.ImageSpec(**fields),
            preview_interval_step_count=previews,
            request_id=request_id,
        )
        metadata = () if tenant is None else (("sangsang-tenant", tenant),)
        return self.stub.StreamGenerateImages(request, timeout=timeout, metadata=metadata)


def slow_down(mesh: Mesh, seconds: float) -> None:
    """Makes every step of its one model longer."""
    [model] = mesh.stages["diffusion"]._models.values()
    infer = model.engine.infer

    def slow(inputs):
        time.sleep(seconds)
        return infer(inputs)

    model.engine.infer = slow


def speed_up(mesh: Mesh) -> None:
    """Makes its steps as quick as they were."""
    [model] = mesh.stages["diffusion"]._models.values()
    del model.engine.infer


@asynccontextmanager
async def mesh_in_process(
    models: list[Path],
    cache_dir: Path,
    *,
    overrides: Mapping[str, Mapping[str, object]] | None = None,
    further_replicas: Mapping[str, str] | None = None,
    seconds: Sequence[tuple[str, Mapping[str, object]]] = (),
) -> AsyncIterator[Mesh]:
    """Five services on this event loop, on loopback ports of their own.

    Args:
        models: that it serves.
        cache_dir: where their engines are.
        overrides: of settings, by service.
        further_replicas: addresses that the orchestrator is told of too, by stage.
        seconds: second replicas of stages, each with its own overrides.
    """
    overrides = overrides or {}
    spans = Spans()
    async with AsyncExitStack() as stack:
        hosts: dict[str, ServiceHost] = {}
        stages: dict[str, object] = {}
        for name, (stage_class, settings_class) in STAGES.items():
            settings = settings_class(**{**_settings(models, cache_dir), **overrides.get(name, {})})
            stages[name] = stage_class(settings)
            hosts[name] = await stack.enter_async_context(hosted(stages[name], settings, spans))
        addresses = {name: f"127.0.0.1:{host.port}" for name, host in hosts.items()}
        for name, fields in seconds:
            stage_class, settings_class = STAGES[name]
            settings = settings_class(**{**_settings(models, cache_dir), **fields})
            host = await stack.enter_async_context(hosted(stage_class(settings), settings, spans))
            addresses[name] += f",127.0.0.1:{host.port}"
        for name, further in (further_replicas or {}).items():
            addresses[name] += f",{further}"
        orchestrator = orchestrator_in_process(
            models, cache_dir, addresses, spans, **overrides.get("orchestrator", {})
        )
        service, host = await stack.enter_async_context(orchestrator)
        channel = open_channel(f"127.0.0.1:{host.port}", max_message_bytes=MAX_MESSAGE_BYTES)
        await stack.enter_async_context(channel)
        stub = imaging_grpc.ImageGenerationServiceStub(channel)
        yield Mesh(stub, spans, {**hosts, "orchestrator": host}, stages, service)


@asynccontextmanager
async def orchestrator_in_process(
    models: list[Path],
    cache_dir: Path,
    addresses: Mapping[str, str],
    spans: Spans,
    **fields: object,
) -> AsyncIterator[tuple[OrchestratorService, ServiceHost]]:
    """An orchestrator of stages at some addresses; drained at the end."""
    told = {f"{name}_address": address for name, address in addresses.items()}
    settings = OrchestratorSettings(**{**_settings(models, cache_dir), **told, **fields})
    service = OrchestratorService(settings)
    async with hosted(service, settings, spans) as host:
        yield service, host


def _settings(models: list[Path], cache_dir: Path) -> dict[str, object]:
    return {
        "port": 0,
        "models": tuple(models),
        "cache_dir": cache_dir,
        "lame_duck_s": 0.0,
        "max_message_bytes": MAX_MESSAGE_BYTES,
    }


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The `ErrorInfo.reason` of a failed call."""
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(error)
    return next((info.reason for packed in status.details if packed.Unpack(info)), "")


def status_of(error: grpc.aio.AioRpcError) -> tuple[str, str]:
    return error.code().name, error.details() or ""
