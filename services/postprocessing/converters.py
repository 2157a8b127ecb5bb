"""Messages of `PostprocessingService` to values and back; every bad field is named at once."""

import re

from sangsang.stages.v1alpha1 import postprocessing_service_pb2, tensor_pb2

from ..runtime.engines.engine import Engine
from ..runtime.errors import FieldViolation, InvalidRequest
from ..runtime.models.folder import ModelFolder
from ..runtime.tensors import from_proto, tensor_violations
from .encoding import MAX_QUALITY, MIME_TYPES, MIN_QUALITY
from .finisher import FinishedPicture, PictureRequest
from .metadata import Parameter

# Together they fit into the 64 KiB that one segment of a JPEG holds, whatever the characters.
MAX_PARAMETERS = 64
MAX_PARAMETER_CHARACTERS = 8000

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)


def to_picture_request(
    request: postprocessing_service_pb2.DecodeLatentsRequest,
    *,
    folder: ModelFolder,
    max_side_px: int,
) -> PictureRequest:
    """Returns what a call asks for.

    Args:
        request: the call.
        folder: the model, for the shape of its latents.
        max_side_px: largest width and height of the picture.

    Raises:
        InvalidRequest: naming every bad field.
    """
    violations = [
        *_latents_violations(request.latents, folder, max_side_px),
        *_format_violations(request),
        *_parameter_violations(request),
    ]
    if violations:
        raise InvalidRequest(violations)
    return PictureRequest(
        latents=from_proto(request.latents, field="latents"),
        mime_type=request.mime_type,
        quality=request.quality,
        parameters=tuple(Parameter(p.name, p.value) for p in request.parameters),
    )


def to_response(
    picture: FinishedPicture, mime_type: str, engine: Engine
) -> postprocessing_service_pb2.DecodeLatentsResponse:
    """Returns the response to one call."""
    return postprocessing_service_pb2.DecodeLatentsResponse(
        content=picture.content,
        mime_type=mime_type,
        width_px=picture.width_px,
        height_px=picture.height_px,
        usage=tensor_pb2.StageUsage(
            queue_seconds=picture.queue_seconds,
            compute_seconds=picture.compute_seconds,
            evaluation_count=1,
            engine=engine.backend,
            precision=engine.precision,
        ),
    )


def _latents_violations(
    tensor: tensor_pb2.Tensor, folder: ModelFolder, max_side_px: int
) -> list[FieldViolation]:
    shape = (folder.latent_channels, None, None)
    violations = tensor_violations(tensor, field="latents", shape=shape)
    if violations:
        return violations
    limit = max_side_px // folder.vae_scale
    if max(tensor.shape[1:]) > limit:
        text = f"height and width must be at most {limit}, got {list(tensor.shape)}"
        return [FieldViolation("latents.shape", text)]
    return []


def _format_violations(
    request: postprocessing_service_pb2.DecodeLatentsRequest,
) -> list[FieldViolation]:
    if request.mime_type not in MIME_TYPES:
        text = f"must be one of {', '.join(MIME_TYPES)}, got {request.mime_type[:40]!r}"
        return [FieldViolation("mime_type", text)]
    if request.mime_type == "image/png" or MIN_QUALITY <= request.quality <= MAX_QUALITY:
        return []
    text = f"must be from {MIN_QUALITY} to {MAX_QUALITY}, got {request.quality}"
    return [FieldViolation("quality", text)]


def _parameter_violations(
    request: postprocessing_service_pb2.DecodeLatentsRequest,
) -> list[FieldViolation]:
    names = [parameter.name for parameter in request.parameters]
    if len(names) > MAX_PARAMETERS:
        text = f"must be at most {MAX_PARAMETERS}, got {len(names)}"
        return [FieldViolation("parameters", text)]
    violations = [
        FieldViolation(f"parameters[{i}].name", "must be a name of lower-case letters, 1 to 64")
        for i, name in enumerate(names)
        if not _NAME.fullmatch(name)
    ]
    if len(set(names)) < len(names):
        violations.append(FieldViolation("parameters", "must not name anything twice"))
    length = sum(len(parameter.value) for parameter in request.parameters)
    if length > MAX_PARAMETER_CHARACTERS:
        text = f"values must have at most {MAX_PARAMETER_CHARACTERS} characters, got {length}"
        violations.append(FieldViolation("parameters", text))
    return violations
