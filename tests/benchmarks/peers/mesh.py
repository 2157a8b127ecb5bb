"""Ours: the whole mesh as child processes, called over gRPC; with its default settings, or less."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc
from sangsang.orchestrator.local_mesh import STAGES, LocalMesh
from sangsang.orchestrator.validation import TENANT_KEY

from .contender import Refused, Reply, Site
from .load import Ask

_TIERS = {"free": imaging.TIER_FREE, "pro": imaging.TIER_PRO}
_PREVIEW_INTERVAL = 5


@dataclass
class MeshContender:
    """The mesh; `environment` changes settings of its processes."""

    name: str = "mesh"
    settings: str = "default settings"
    environment: Mapping[str, str] = field(default_factory=dict)
    client: str = "mesh"
    _mesh: LocalMesh | None = None

    def start(self, site: Site) -> str:
        choice = site.choice
        devices = len(choice.devices)
        # On a CPU the devices share the light stages; a device that is held has its own.
        stages = STAGES if choice.timed else ("diffusion",)
        self._mesh = LocalMesh(
            [Path(choice.model)],
            cache_dir=Path(choice.cache_dir),
            replicas=dict.fromkeys(stages, devices),
            environment={
                "SANGSANG_LOG_LEVEL": "error",
                "SANGSANG_BACKEND": choice.backend,
                **({"SANGSANG_TIMED_PROFILE": choice.profile} if choice.timed else {}),
                **self.environment,
            },
            device_environment=lambda number: {"SANGSANG_TIMED_DEVICE": choice.devices[number]},
            log_dir=site.place / self.name,
        )
        self._mesh.__enter__()
        return self._mesh.address

    def process_ids(self) -> list[int]:
        return [] if self._mesh is None else [one.process.pid for one in self._mesh.processes]

    def stop(self) -> None:
        mesh, self._mesh = self._mesh, None
        if mesh is not None:
            mesh.stop()


class MeshClient:
    """Calls the public API."""

    def __init__(self, address: str, model_id: str, *, tenant: str = "") -> None:
        self._metadata = ((TENANT_KEY, tenant),) if tenant else ()
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = imaging_grpc.ImageGenerationServiceStub(self._channel)
        self._model_id = model_id

    async def picture(self, ask: Ask, *, previews: bool = False) -> Reply:
        spec = imaging.ImageSpec(
            model_id=self._model_id,
            prompt=ask.prompt,
            seed=ask.seed,
            tier=_TIERS[ask.tier],
            embed_parameters=False,
        )
        try:
            if previews:
                return await self._streamed(spec, ask)
            request = imaging.GenerateImagesRequest(spec=spec)
            response = await self._stub.GenerateImages(
                request, timeout=ask.patience_s, metadata=self._metadata
            )
            return Reply(response.images[0].data.content)
        except grpc.aio.AioRpcError as error:
            raise told(error) from error

    async def close(self) -> None:
        await self._channel.close()

    async def _streamed(self, spec: imaging.ImageSpec, ask: Ask) -> Reply:
        request = imaging.StreamGenerateImagesRequest(
            spec=spec, preview_interval_step_count=_PREVIEW_INTERVAL
        )
        started_s, preview_s, picture = time.perf_counter(), None, b""
        async for event in self._stub.StreamGenerateImages(
            request, timeout=ask.patience_s, metadata=self._metadata
        ):
            if preview_s is None and event.progress.preview.content:
                preview_s = time.perf_counter() - started_s
            if event.image.data.content:
                picture = event.image.data.content
        return Reply(picture, preview_s)


def told(error: grpc.aio.AioRpcError) -> Exception:
    """Returns what a status of gRPC means here."""
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimeoutError(error.details())
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Refused(error.details())
    return error


connect = MeshClient
