"""Messages of `PreprocessingService` to values and back; every bad field is named at once."""

from sangsang.stages.v1alpha1 import preprocessing_service_pb2, tensor_pb2

from ..runtime.engines.engine import Engine
from ..runtime.errors import FieldViolation, InvalidRequest
from ..runtime.models.folder import ModelFolder
from ..runtime.noise import MAX_SEED, MIN_ELEMENT_COUNT
from ..runtime.picture_checks import PictureLimits, picture_violations
from ..runtime.tensors import to_proto
from .latents import LatentRequest, PreparedLatents


def to_latent_request(
    request: preprocessing_service_pb2.PrepareLatentsRequest,
    *,
    folder: ModelFolder,
    max_side_px: int,
    limits: PictureLimits,
) -> LatentRequest:
    """Returns what a call asks for.

    Args:
        request: the call.
        folder: the model, for the sizes that it can make.
        max_side_px: largest width and height.
        limits: what initial images are too large.

    Raises:
        InvalidRequest: naming every bad field. A picture that only its decoder finds damaged is
            not among them yet.
    """
    violations = [
        violation
        for field, value in (("width_px", request.width_px), ("height_px", request.height_px))
        for violation in _side_violations(field, value, folder.size_multiple_px, max_side_px)
    ]
    if not violations:
        violations += _area_violations(request, folder)
    if request.seed < 0:
        text = f"must be from 0 to {MAX_SEED}, got {request.seed}"
        violations.append(FieldViolation("seed", text))
    if request.initial_image:
        violations += picture_violations(request.initial_image, limits)
    if violations:
        raise InvalidRequest(violations)
    return LatentRequest(
        width_px=request.width_px,
        height_px=request.height_px,
        seed=request.seed,
        initial_image=request.initial_image,
    )


def to_response(
    prepared: PreparedLatents, engine: Engine
) -> preprocessing_service_pb2.PrepareLatentsResponse:
    """Returns the response to one call."""
    initial = prepared.initial_latents
    return preprocessing_service_pb2.PrepareLatentsResponse(
        noise=to_proto(prepared.noise),
        initial_latents=None if initial is None else to_proto(initial),
        noise_draw_count=prepared.noise_draw_count,
        usage=tensor_pb2.StageUsage(
            queue_seconds=prepared.queue_seconds,
            compute_seconds=prepared.compute_seconds,
            evaluation_count=0 if initial is None else 1,
            engine=engine.backend,
            precision=engine.precision,
        ),
    )


def _side_violations(
    field: str, value: int, multiple_px: int, max_side_px: int
) -> list[FieldViolation]:
    if multiple_px <= value <= max_side_px and value % multiple_px == 0:
        return []
    text = f"must be a multiple of {multiple_px} up to {max_side_px}, got {value}"
    return [FieldViolation(field, text)]


def _area_violations(
    request: preprocessing_service_pb2.PrepareLatentsRequest, folder: ModelFolder
) -> list[FieldViolation]:
    latents = request.width_px * request.height_px // folder.vae_scale**2
    if folder.latent_channels * latents >= MIN_ELEMENT_COUNT:
        return []
    text = f"width_px * height_px must give at least {MIN_ELEMENT_COUNT} values of noise"
    return [FieldViolation("width_px", text)]
