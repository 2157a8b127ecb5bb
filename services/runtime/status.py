"""Errors to gRPC statuses and back: the one place that knows `google.rpc.Status`.

Every status carries one `ErrorInfo`; each kind of detail is there at most once (AIP-193).
"""

import math
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from .errors import (
    ERROR_DOMAIN,
    CorruptTensor,
    DeadlinePassed,
    FieldViolation,
    InvalidRequest,
    MeshError,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    StageFailed,
    StageLost,
    StageUnavailable,
    TenantLimited,
)

PUSHBACK_KEY = "grpc-retry-pushback-ms"
_BROKEN_CONNECTION = ("Stream removed", "Socket closed", "Connection reset", "Broken pipe")
# The connection was given up, for nothing came of the other side: it is cut off, not dead.
_SILENCE = ("timed out", "ping timeout", "keepalive")


def to_status(error: MeshError, *, request_id: str = "") -> status_pb2.Status:
    """Returns the rich status of an error."""
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=ERROR_DOMAIN, metadata=error.metadata
    )
    details: list[Message] = [info]
    if isinstance(error, InvalidRequest):
        details.append(_bad_request(error))
    if isinstance(error, ModelNotFound):
        details.append(
            error_details_pb2.ResourceInfo(
                resource_type="model", resource_name=error.model_id[:80], description=error.message
            )
        )
    if isinstance(error, TenantLimited):
        details.append(_quota_failure(error))
    if error.retry_delay_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_delay_s * 1e9))
        details.append(retry)
    if request_id:
        details.append(error_details_pb2.RequestInfo(request_id=request_id))
    return status_pb2.Status(
        code=error.code.value[0], message=error.message, details=[_packed(d) for d in details]
    )


def to_grpc_status(error: MeshError, *, request_id: str = "") -> Any:
    """Returns what `abort_with_status` takes; it tells gRPC's own retries when to come as well.

    `grpc-retry-pushback-ms` is what a client's retry policy waits for; -1 has it retry no more. An
    overload would last for as long as everyone comes again, so it ends them: `RetryInfo` tells the
    program behind the call when to try.
    """
    status: Any = rpc_status.to_status(to_status(error, request_id=request_id))
    pushback_ms = -1
    if not isinstance(error, Overloaded):
        if error.retry_delay_s is None or not error.retryable:
            return status
        pushback_ms = math.ceil(error.retry_delay_s * 1000)
    return status._replace(
        trailing_metadata=(*status.trailing_metadata, (PUSHBACK_KEY, str(pushback_ms)))
    )


def unknown_status(*, request_id: str = "") -> status_pb2.Status:
    """Returns the status of a bug: it says nothing of the exception, only where to look."""
    named = f" (request {request_id})" if request_id else ""
    error = MeshError(f"internal error{named}; the service's log has the details")
    return to_status(error, request_id=request_id)


def from_rpc_error(error: grpc.aio.AioRpcError, *, stage: str) -> MeshError:
    """Returns the error that a failed call to a stage means to its caller."""
    code = error.code()
    message = error.details() or code.name
    violations, reason, metadata, retry_delay_s = _read_details(error)
    lost = reason == StageLost.reason or (not reason and _broke(message))
    if code is grpc.StatusCode.UNAVAILABLE and lost:
        return StageLost(f"{stage}: {message}", metadata={**metadata, "stage": stage})
    if code is grpc.StatusCode.INVALID_ARGUMENT and violations:
        return InvalidRequest(violations)
    metadata = {**metadata, "stage": stage}
    if code is grpc.StatusCode.NOT_FOUND:
        # The caller's model was found by the orchestrator: a stage without it is not set up.
        return ModelNotReady(f"{stage}: {message}", metadata=metadata)
    kinds: dict[grpc.StatusCode, type[MeshError]] = {
        grpc.StatusCode.FAILED_PRECONDITION: ModelNotReady,
        grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
        grpc.StatusCode.UNAVAILABLE: StageUnavailable,
        grpc.StatusCode.DEADLINE_EXCEEDED: DeadlinePassed,
        grpc.StatusCode.DATA_LOSS: CorruptTensor,
        # Nobody here cancelled it: a server that stops does so with calls that reach it late.
        grpc.StatusCode.CANCELLED: StageUnavailable,
    }
    kind = kinds.get(code)
    if kind is None:
        return StageFailed(f"{stage} failed: {message}")
    return kind(f"{stage}: {message}", metadata=metadata, retry_delay_s=retry_delay_s)


def _broke(message: str) -> bool:
    """Returns whether a connection broke under a call; a call that never got one is not meant.

    gRPC has no code for it. What it says is held by a test, with a process that is killed.
    """
    silent = any(text in message for text in _SILENCE)
    return not silent and any(text in message for text in _BROKEN_CONNECTION)


def _read_details(
    error: grpc.aio.AioRpcError,
) -> tuple[list[FieldViolation], str, dict[str, str], float | None]:
    status: Any = rpc_status.from_call(error)  # pyright: ignore[reportArgumentType] aio has the same trailers
    violations: list[FieldViolation] = []
    reason = ""
    metadata: dict[str, str] = {}
    retry_delay_s: float | None = None
    for detail in status.details if status else ():
        bad = error_details_pb2.BadRequest()
        info = error_details_pb2.ErrorInfo()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(bad):
            violations = [FieldViolation(v.field, v.description) for v in bad.field_violations]
        elif detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(retry):
            retry_delay_s = retry.retry_delay.ToNanoseconds() / 1e9
    return violations, reason, metadata, retry_delay_s


def _bad_request(error: InvalidRequest) -> error_details_pb2.BadRequest:
    return error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
            for v in error.violations
        ]
    )


def _quota_failure(error: TenantLimited) -> error_details_pb2.QuotaFailure:
    return error_details_pb2.QuotaFailure(
        violations=[
            error_details_pb2.QuotaFailure.Violation(
                subject=f"tenant:{error.tenant}", description=error.message
            )
        ]
    )


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def code_name(code: int) -> str:
    """Returns the name of a numeric status code, e.g. `UNAVAILABLE`."""
    return code_pb2.Code.Name(code)
