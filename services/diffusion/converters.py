"""Messages of `DiffusionService` to jobs and events to messages, bad fields all at once."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sangsang.stages.v1alpha1 import diffusion_service_pb2 as messages
from sangsang.stages.v1alpha1 import tensor_pb2

from ..runtime.deadlines import MAX_FINISH_RESERVE_MS, time_left
from ..runtime.engines.engine import Engine
from ..runtime.errors import FieldViolation, InvalidRequest
from ..runtime.models.manifest import BASE_WEIGHTS
from ..runtime.models.sampler_tables import SamplerTable, SamplerTables
from ..runtime.noise import MAX_SEED, MIN_ELEMENT_COUNT
from ..runtime.tensors import from_proto, tensor_violations, to_proto
from .jobs import Array, DenoiseJob, Finished, StepDone

MAX_GUIDANCE_SCALE = 100.0
# A picture's starting noise and its VAE sample are two; beyond a few, skipping is only work.
MAX_NOISE_DRAW_COUNT = 64
MAX_PREVIEW_INTERVAL = 1000
MAX_PROGRESS_INTERVAL_MS = 60_000
MAX_NAME_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What a model and its service take.

    Attributes:
        weights: the sets of weights that a request may name, each with the scales that its rows
            have in the engine's bank of adapters; None where there is no bank.
        channels: of the latents.
        side_multiple: what height and width of the latents must be multiples of.
        max_side: largest height and width of the latents.
        context_width: width of a token's embedding.
        max_context_length: most tokens of an embedding.
    """

    weights: Mapping[str, Array | None]
    channels: int
    side_multiple: int
    max_side: int
    context_width: int
    max_context_length: int


def to_job(
    request: messages.DenoiseRequest, tables: SamplerTables, limits: JobLimits, trace: Any = None
) -> DenoiseJob:
    """Returns the job of a request, its deadline the current call's.

    Raises:
        InvalidRequest: naming every bad field.
    """
    found = [
        *_weights_violations(request, limits),
        *tables.violations(request.scheduler, request.step_count),
        *_number_violations(request),
        *_tensor_violations(request, limits),
    ]
    if found:
        raise InvalidRequest(found)
    left_s = time_left()
    return DenoiseJob(
        table=_table(request, tables),
        noise=from_proto(request.noise, field="noise"),
        initial_latents=(
            from_proto(request.initial_latents, field="initial_latents")
            if request.HasField("initial_latents")
            else None
        ),
        contexts=_contexts(request),
        adapter_scales=limits.weights[to_weights(request)],
        guidance_scale=request.guidance_scale,
        seed=request.seed,
        noise_draw_count=request.noise_draw_count,
        preview_interval_step_count=request.preview_interval_step_count,
        min_progress_interval_s=request.min_progress_interval_ms / 1000,
        finish_reserve_s=request.finish_reserve_ms / 1000,
        deadline_s=None if left_s is None else time.monotonic() + left_s,
        tier=request.tier,
        tenant=request.tenant,
        trace=trace,
    )


def to_progress(step: StepDone) -> messages.DenoiseResponse:
    """Returns the message of a step."""
    progress = messages.DenoiseProgress(
        completed_step_count=step.completed_step_count,
        step_count=step.step_count,
        preview=None if step.preview is None else to_proto(step.preview),
    )
    return messages.DenoiseResponse(progress=progress)


def to_result(finished: Finished, engine: Engine) -> messages.DenoiseResponse:
    """Returns the last message of a stream."""
    usage = finished.usage
    result = messages.DenoiseResult(
        latents=to_proto(finished.latents),
        usage=tensor_pb2.StageUsage(
            queue_seconds=usage.queue_seconds,
            compute_seconds=usage.compute_seconds,
            evaluation_count=usage.evaluation_count,
            engine=engine.backend,
            precision=engine.precision,
        ),
        mean_batch_row_count=usage.mean_batch_row_count,
    )
    return messages.DenoiseResponse(result=result)


def to_weights(request: messages.DenoiseRequest) -> str:
    """Returns which set of the UNet's weights a request names."""
    return request.weights or BASE_WEIGHTS


def _weights_violations(
    request: messages.DenoiseRequest, limits: JobLimits
) -> list[FieldViolation]:
    if to_weights(request) in limits.weights:
        return []
    text = f"must be one of {', '.join(limits.weights)}; got {request.weights[:40]!r}"
    return [FieldViolation("weights", text)]


def _is_guided(request: messages.DenoiseRequest) -> bool:
    return request.guidance_scale > 1


def _start_step(request: messages.DenoiseRequest) -> int:
    """Returns the steps that diffusers' image to image pipeline skips at this strength."""
    count = request.step_count
    return max(count - min(int(count * request.strength), count), 0)


def _table(request: messages.DenoiseRequest, tables: SamplerTables) -> SamplerTable:
    """Returns the schedule to run.

    Raises:
        InvalidRequest: the sampler cannot start from a picture at this strength.
    """
    start_step = _start_step(request) if request.HasField("initial_latents") else None
    try:
        return tables.select(request.scheduler, request.step_count, start_step)
    except LookupError as exc:
        raise InvalidRequest([FieldViolation("strength", str(exc))]) from exc


def _contexts(request: messages.DenoiseRequest) -> tuple[Array, ...]:
    prompt = from_proto(request.embeddings, field="embeddings")
    if not _is_guided(request):
        return (prompt,)
    return from_proto(request.negative_embeddings, field="negative_embeddings"), prompt


def _number_violations(request: messages.DenoiseRequest) -> list[FieldViolation]:
    checks = [
        (
            "guidance_scale",
            math.isfinite(request.guidance_scale)
            and 0 <= request.guidance_scale <= MAX_GUIDANCE_SCALE,
            f"must be 0 to {MAX_GUIDANCE_SCALE:g}, got {request.guidance_scale:g}",
        ),
        ("seed", 0 <= request.seed <= MAX_SEED, f"must not be negative, got {request.seed}"),
        (
            "noise_draw_count",
            0 <= request.noise_draw_count <= MAX_NOISE_DRAW_COUNT,
            f"must be 0 to {MAX_NOISE_DRAW_COUNT}, got {request.noise_draw_count}",
        ),
        (
            "preview_interval_step_count",
            0 <= request.preview_interval_step_count <= MAX_PREVIEW_INTERVAL,
            f"must be 0 to {MAX_PREVIEW_INTERVAL}, got {request.preview_interval_step_count}",
        ),
        (
            "min_progress_interval_ms",
            0 <= request.min_progress_interval_ms <= MAX_PROGRESS_INTERVAL_MS,
            f"must be 0 to {MAX_PROGRESS_INTERVAL_MS}, got {request.min_progress_interval_ms}",
        ),
        (
            "finish_reserve_ms",
            0 <= request.finish_reserve_ms <= MAX_FINISH_RESERVE_MS,
            f"must be 0 to {MAX_FINISH_RESERVE_MS}, got {request.finish_reserve_ms}",
        ),
    ]
    checks += [_name_check(request, name) for name in ("tier", "tenant", "request_id")]
    found = [FieldViolation(name, text) for name, fits, text in checks if not fits]
    return found + (_strength_violations(request) if request.HasField("initial_latents") else [])


def _name_check(request: messages.DenoiseRequest, name: str) -> tuple[str, bool, str]:
    length = len(getattr(request, name))
    text = f"must be at most {MAX_NAME_CHARACTERS} characters, got {length}"
    return name, length <= MAX_NAME_CHARACTERS, text


def _strength_violations(request: messages.DenoiseRequest) -> list[FieldViolation]:
    strength, step_count = request.strength, request.step_count
    if not 0 < strength <= 1:
        return [FieldViolation("strength", f"must be above 0 and at most 1, got {strength:g}")]
    if step_count >= 1 and _start_step(request) >= step_count:
        text = f"{strength:g} of {step_count} steps is less than one step"
        return [FieldViolation("strength", text)]
    return []


def _tensor_violations(request: messages.DenoiseRequest, limits: JobLimits) -> list[FieldViolation]:
    noise_shape = tuple(request.noise.shape)
    found = [
        *_embedding_violations(request, limits),
        *_checked(request.noise, "noise", (limits.channels, None, None)),
    ]
    if not found and request.noise.shape:
        found += _side_violations(noise_shape, limits)
    if request.HasField("initial_latents"):
        found += _checked(request.initial_latents, "initial_latents", noise_shape or None)
    return found


def _embedding_violations(
    request: messages.DenoiseRequest, limits: JobLimits
) -> list[FieldViolation]:
    found = _checked(request.embeddings, "embeddings", (None, limits.context_width))
    length = request.embeddings.shape[0] if not found else None
    if length is not None and length > limits.max_context_length:
        text = f"must have at most {limits.max_context_length} tokens, got {length}"
        found.append(FieldViolation("embeddings.shape", text))
    if not _is_guided(request):
        return found
    if not request.HasField("negative_embeddings"):
        text = "must be given when guidance_scale is above 1"
        return [*found, FieldViolation("negative_embeddings", text)]
    shape = (length, limits.context_width)
    return [*found, *_checked(request.negative_embeddings, "negative_embeddings", shape)]


def _side_violations(shape: tuple[int, ...], limits: JobLimits) -> list[FieldViolation]:
    multiple, most = limits.side_multiple, limits.max_side
    if any(side % multiple or side > most for side in shape[1:]):
        text = f"sides must be multiples of {multiple} up to {most}, got {list(shape[1:])}"
        return [FieldViolation("noise.shape", text)]
    if math.prod(shape) < MIN_ELEMENT_COUNT:
        text = f"must have at least {MIN_ELEMENT_COUNT} elements"
        return [FieldViolation("noise.shape", text)]
    return []


def _checked(
    tensor: tensor_pb2.Tensor, field: str, shape: tuple[int | None, ...] | None
) -> list[FieldViolation]:
    """Returns what is wrong with a tensor's form or, if nothing, with its values."""
    found = tensor_violations(tensor, field=field, shape=shape)
    if not found and not np.isfinite(from_proto(tensor, field=field)).all():
        found = [FieldViolation(f"{field}.data", "must be finite")]
    return found
