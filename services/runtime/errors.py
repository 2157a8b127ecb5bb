"""One tree of errors for the whole mesh, each bound to a gRPC status.

    MeshError
    ├── InvalidRequest      INVALID_ARGUMENT     bad fields, all of them at once
    │   └── RequestIdReused INVALID_ARGUMENT     the ID of another request
    ├── ModelNotFound       NOT_FOUND            no such model here
    ├── TraceNotFound       NOT_FOUND            no such trace is kept
    ├── TracesNotKept       FAILED_PRECONDITION  traces go elsewhere, or nobody makes any
    ├── ModelNotReady       FAILED_PRECONDITION  known, but not built or not loaded
    ├── RequestQuarantined  FAILED_PRECONDITION  stages died under it; not run again for a while
    ├── Overloaded          RESOURCE_EXHAUSTED   the queue is full; retry later
    │   ├── TenantRateExceeded      the tenant sends too often
    │   └── TenantInFlightExceeded  the tenant has too many requests at once
    ├── DeadlineTooShort    RESOURCE_EXHAUSTED   cannot be done in the time given
    ├── DeadlinePassed      DEADLINE_EXCEEDED    the time given ran out
    ├── StageUnavailable    UNAVAILABLE          a stage is down or draining
    │   └── StageLost       UNAVAILABLE          the connection broke while it worked on the call
    ├── CorruptTensor       DATA_LOSS            an engine returned NaN or Inf
    └── StageFailed         INTERNAL             a bug; fatal ones end the process

Only `interceptors.py` turns them into a status; everyone else raises them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import grpc

ERROR_DOMAIN = "imaging.sangsang.dev"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field: its path (`spec.width_px`) and what it must be."""

    field: str
    description: str


class MeshError(Exception):
    """An error that a caller may see.

    Attributes:
        code: gRPC status code.
        reason: `ErrorInfo.reason`, stable for programs.
        retryable: whether the same call can succeed later or elsewhere.
        metadata: every variable of the message, for `ErrorInfo.metadata`.
        retry_delay_s: when to try again, for `RetryInfo`; None gives no hint.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_delay_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_delay_s = retry_delay_s


class InvalidRequest(MeshError):
    """The request has bad fields; `violations` lists all of them."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_SPEC"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        text = "; ".join(f"{v.field}: {v.description}" for v in violations)
        super().__init__(text, metadata={"violation_count": str(len(violations))})
        self.violations = tuple(violations)


class RequestIdReused(InvalidRequest):
    """The request ID is that of a request with another spec."""

    reason = "REQUEST_ID_REUSED"

    def __init__(self, request_id: str) -> None:
        text = f"{request_id} is the ID of another request; make a new ID for each"
        super().__init__([FieldViolation("request_id", text)])


class ModelNotFound(MeshError):
    """No model of this name is served here."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "MODEL_NOT_FOUND"

    def __init__(self, model_id: str, known: Sequence[str]) -> None:
        shown = ", ".join(known) or "none"
        super().__init__(
            f"model {model_id[:80]!r} is not served here; models: {shown}",
            metadata={"model_id": model_id[:80], "models": shown},
        )
        self.model_id = model_id


class TraceNotFound(MeshError):
    """No trace or request of this ID is kept."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "TRACE_NOT_FOUND"


class TracesNotKept(MeshError):
    """This mesh keeps no traces in memory."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "TRACES_NOT_KEPT"


class ModelNotReady(MeshError):
    """The model is known but its engines are not built or not loaded."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "MODEL_NOT_READY"


class Overloaded(MeshError):
    """The queue is full."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "QUEUE_FULL"
    retryable = True


class TenantLimited(Overloaded):
    """A tenant has reached a limit of its own, whatever room there is for others.

    Attributes:
        tenant: whose limit it is, for `QuotaFailure`.
    """

    reason = "TENANT_LIMITED"

    def __init__(self, tenant: str, limit: str, *, retry_delay_s: float) -> None:
        super().__init__(
            f"tenant {tenant or 'of no name'!r} may have {limit}",
            metadata={"tenant": tenant, "limit": limit},
            retry_delay_s=retry_delay_s,
        )
        self.tenant = tenant


class TenantRateExceeded(TenantLimited):
    """The tenant sends requests faster than it may."""

    reason = "TENANT_RATE"


class TenantInFlightExceeded(TenantLimited):
    """As many requests of the tenant run or wait as may at one moment."""

    reason = "TENANT_IN_FLIGHT"


class RequestQuarantined(MeshError):
    """Stages died while they worked on this very request, so it is not run for a while.

    Not INTERNAL, which tells the caller nothing of what to do, and not UNAVAILABLE, which asks for
    the same call again: that is what must not come.
    """

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "REQUEST_QUARANTINED"


class DeadlineTooShort(MeshError):
    """The estimate exceeds the time left, so nothing was started."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "DEADLINE_TOO_SHORT"


class DeadlinePassed(MeshError):
    """The call's deadline passed while it was worked on."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_PASSED"


class StageUnavailable(MeshError):
    """A stage is down, draining or not reachable."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "STAGE_UNAVAILABLE"
    retryable = True


class StageLost(StageUnavailable):
    """The connection to a stage broke while it worked on this call: it may have died of it."""

    reason = "STAGE_LOST"


class CorruptTensor(MeshError):
    """An engine returned values that are not finite."""

    code = grpc.StatusCode.DATA_LOSS
    reason = "NOT_FINITE"


class StageFailed(MeshError):
    """A stage failed on its own account.

    Attributes:
        fatal: whether the process can no longer be trusted and must restart.
    """

    reason = "STAGE_FAILED"

    def __init__(self, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal
