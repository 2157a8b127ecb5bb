"""Typed clients of the four stage services: the orchestrator's only way to a model.

Tensors pass through as messages, untouched: the orchestrator never looks inside one.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
from opentelemetry import trace

from sangsang.stages.v1alpha1 import (
    diffusion_service_pb2,
    diffusion_service_pb2_grpc,
    postprocessing_service_pb2,
    postprocessing_service_pb2_grpc,
    preprocessing_service_pb2,
    preprocessing_service_pb2_grpc,
    tensor_pb2,
    text_encoding_service_pb2,
    text_encoding_service_pb2_grpc,
)

from ..services.runtime import telemetry
from ..services.runtime.calls import StageCaller, open_channel
from ..services.runtime.deadlines import MAX_FINISH_RESERVE_MS
from ..services.runtime.errors import FieldViolation, InvalidRequest, StageFailed
from .plan import GenerationPlan
from .scheduling.work import Grant, StageName

_STUBS: Mapping[StageName, Callable[[grpc.aio.Channel], Any]] = {
    "text_encoding": text_encoding_service_pb2_grpc.TextEncodingServiceStub,
    "preprocessing": preprocessing_service_pb2_grpc.PreprocessingServiceStub,
    "diffusion": diffusion_service_pb2_grpc.DiffusionServiceStub,
    "postprocessing": postprocessing_service_pb2_grpc.PostprocessingServiceStub,
}


@dataclass(frozen=True, slots=True)
class StageRun:
    """What one call to a stage took.

    Attributes:
        duration_s: wall time of the call, waiting included.
        compute_seconds: compute that the call is charged for.
        evaluation_count: rows of engine calls; UNet evaluations in the diffusion stage.
        cache_hit: whether the answer came from the stage's cache.
        batch_row_count: mean rows of the UNet evaluations that the call was in, neighbours
            included; 0 in other stages.
    """

    stage: StageName
    duration_s: float
    compute_seconds: float
    evaluation_count: int
    engine: str
    precision: str
    cache_hit: bool = False
    batch_row_count: float = 0.0


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Embeddings of one text: `[tokens, width]`."""

    tensor: tensor_pb2.Tensor
    dropped_token_count: int
    run: StageRun


@dataclass(frozen=True, slots=True)
class PreparedLatents:
    """What a denoising run starts from: noise and, for image to image, latents."""

    noise: tensor_pb2.Tensor
    initial_latents: tensor_pb2.Tensor | None
    noise_draw_count: int
    run: StageRun


@dataclass(frozen=True, slots=True)
class DenoiseStep:
    """A step is done; `preview` is `[height, width, 3]`, u8, when one was due."""

    completed_step_count: int
    step_count: int
    preview: tensor_pb2.Tensor | None


@dataclass(frozen=True, slots=True)
class Latents:
    """Denoised latents: `[channels, height, width]`."""

    tensor: tensor_pb2.Tensor
    run: StageRun


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An encoded picture."""

    content: bytes
    mime_type: str
    width_px: int
    height_px: int
    run: StageRun


class Stages:
    """Every replica of the four stage services.

    Attributes:
        channels: of the replicas, by stage and address.

    Args:
        addresses: `host:port` of the replicas of each stage; the same may be named again.
        tracer: makes the client spans.
        max_message_bytes: of one call.
    """

    def __init__(
        self,
        addresses: Mapping[StageName, tuple[str, ...]],
        tracer: trace.Tracer,
        *,
        max_message_bytes: int,
    ) -> None:
        self.channels: dict[tuple[StageName, str], grpc.aio.Channel] = {
            (stage, address): open_channel(address, max_message_bytes=max_message_bytes)
            for stage, named in addresses.items()
            for address in dict.fromkeys(named)
        }
        self._stubs = {key: _STUBS[key[0]](channel) for key, channel in self.channels.items()}
        self._callers = {stage: StageCaller(stage, tracer) for stage in addresses}

    async def encode_text(self, grant: Grant, plan: GenerationPlan, text: str) -> Embeddings:
        """Returns the embeddings of a text."""
        stub = self._stubs["text_encoding", grant.address]
        started_at = time.perf_counter()
        request = text_encoding_service_pb2.EncodeTextRequest(model_id=plan.model_id, text=text)
        response = await self._callers["text_encoding"].unary(
            stub.EncodeText, request, _attributes(grant)
        )
        run = _run("text_encoding", started_at, response.usage, cache_hit=response.cache_hit)
        return Embeddings(response.embeddings, response.dropped_token_count, run)

    async def prepare_latents(
        self, grant: Grant, plan: GenerationPlan, seed: int
    ) -> PreparedLatents:
        """Returns the noise of a seed and the latents of the initial image, if there is one."""
        stub = self._stubs["preprocessing", grant.address]
        started_at = time.perf_counter()
        request = preprocessing_service_pb2.PrepareLatentsRequest(
            model_id=plan.model_id,
            width_px=plan.width_px,
            height_px=plan.height_px,
            seed=seed,
            initial_image=plan.initial_image,
        )
        caller = self._callers["preprocessing"]
        with _public_fields():
            response = await caller.unary(stub.PrepareLatents, request, _attributes(grant))
        return PreparedLatents(
            noise=response.noise,
            initial_latents=(
                response.initial_latents if response.HasField("initial_latents") else None
            ),
            noise_draw_count=response.noise_draw_count,
            run=_run("preprocessing", started_at, response.usage),
        )

    async def denoise(
        self,
        grant: Grant,
        plan: GenerationPlan,
        seed: int,
        prompt: Embeddings,
        negative: Embeddings | None,
        start: PreparedLatents,
        finish_reserve_s: float,
        on_step: Callable[[DenoiseStep], None],
    ) -> Latents:
        """Returns the denoised latents; `on_step` is called after each step.

        The steps are planned to end `finish_reserve_s` before the call's deadline.
        """
        stub = self._stubs["diffusion", grant.address]
        started_at = time.perf_counter()
        request = diffusion_service_pb2.DenoiseRequest(
            model_id=plan.model_id,
            weights=plan.weights,
            scheduler=plan.scheduler,
            step_count=plan.step_count,
            strength=plan.strength,
            guidance_scale=plan.guidance_scale,
            embeddings=prompt.tensor,
            negative_embeddings=negative.tensor if negative else None,
            noise=start.noise,
            initial_latents=start.initial_latents,
            seed=seed,
            noise_draw_count=start.noise_draw_count,
            preview_interval_step_count=plan.preview_interval_step_count,
            min_progress_interval_ms=plan.min_progress_interval_ms,
            finish_reserve_ms=min(MAX_FINISH_RESERVE_MS, round(finish_reserve_s * 1000)),
            tier=plan.tier,
            tenant=plan.tenant,
            request_id=plan.request_id,
        )
        responses = self._callers["diffusion"].stream(stub.Denoise, request, _attributes(grant))
        latents: Latents | None = None
        with _public_fields():
            async with aclosing(responses):
                # To the end of the stream: who leaves after the result would cancel what went well.
                async for response in responses:
                    if response.WhichOneof("event") == "result":
                        latents = _latents(response.result, started_at)
                    else:
                        on_step(_step(response.progress))
        if latents is None:
            raise StageFailed("diffusion ended its stream without a result")
        return latents

    async def decode_latents(
        self, grant: Grant, plan: GenerationPlan, seed: int, latents: Latents
    ) -> EncodedImage:
        """Returns the encoded picture of some latents."""
        stub = self._stubs["postprocessing", grant.address]
        started_at = time.perf_counter()
        request = postprocessing_service_pb2.DecodeLatentsRequest(
            model_id=plan.model_id,
            latents=latents.tensor,
            mime_type=plan.mime_type,
            quality=plan.quality,
            parameters=[
                postprocessing_service_pb2.GenerationParameter(name=name, value=value)
                for name, value in plan.parameters(seed)
            ],
        )
        caller = self._callers["postprocessing"]
        response = await caller.unary(stub.DecodeLatents, request, _attributes(grant))
        return EncodedImage(
            content=response.content,
            mime_type=response.mime_type,
            width_px=response.width_px,
            height_px=response.height_px,
            run=_run("postprocessing", started_at, response.usage),
        )

    async def close(self) -> None:
        """Closes the channels."""
        for channel in self.channels.values():
            await channel.close()


def _run(
    stage: StageName, started_at: float, usage: tensor_pb2.StageUsage, *, cache_hit: bool = False
) -> StageRun:
    return StageRun(
        stage=stage,
        duration_s=time.perf_counter() - started_at,
        compute_seconds=usage.compute_seconds,
        evaluation_count=usage.evaluation_count,
        engine=usage.engine,
        precision=usage.precision,
        cache_hit=cache_hit,
    )


def _attributes(grant: Grant) -> dict[str, str | int]:
    """Returns where a call goes, for its span."""
    host, _, port = grant.address.rpartition(":")
    numbered = port.isdigit()
    return {
        telemetry.DEVICE: grant.device,
        telemetry.LANE: grant.lane,
        telemetry.SERVER_ADDRESS: host if numbered else grant.address,
        **({telemetry.SERVER_PORT: int(port)} if numbered else {}),
    }


@contextmanager
def _public_fields() -> Iterator[None]:
    """Renames the fields that a stage found bad to those of the public request."""
    try:
        yield
    except InvalidRequest as error:
        names = {"initial_image": "spec.initial_image.content"}
        raise InvalidRequest(
            [
                FieldViolation(names.get(v.field, f"spec.{v.field}"), v.description)
                for v in error.violations
            ]
        ) from error


def _latents(result: diffusion_service_pb2.DenoiseResult, started_at: float) -> Latents:
    run = _run("diffusion", started_at, result.usage)
    return Latents(result.latents, replace(run, batch_row_count=result.mean_batch_row_count))


def _step(progress: diffusion_service_pb2.DenoiseProgress) -> DenoiseStep:
    return DenoiseStep(
        completed_step_count=progress.completed_step_count,
        step_count=progress.step_count,
        preview=progress.preview if progress.HasField("preview") else None,
    )
