"""How a span says how its work ended: by the name of a gRPC status, as at both ends of a call.

An exception's text may quote what a caller sent, so it is never recorded.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import grpc
from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode
from opentelemetry.util.types import AttributeValue

from . import telemetry
from .deadlines import has_run_out, time_left
from .errors import MeshError

OK = "OK"


def note_call_end(span: trace.Span, code: str) -> None:
    """Notes the status that a call ended with."""
    span.set_attribute(telemetry.RPC_STATUS, code)
    note_failure(span, code)


def note_failure(span: trace.Span, code: str) -> None:
    """Notes that the work of a span failed, unless the code is OK."""
    if code != OK:
        span.set_attribute(telemetry.ERROR_TYPE, code)
        span.set_status(Status(StatusCode.ERROR, code))


def code_of(error: BaseException) -> str:
    """Returns the status that an error means for the call that it ends."""
    if isinstance(error, MeshError):
        return error.code.name
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code().name
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return cancel_code(time_left())
    return grpc.StatusCode.INTERNAL.name


def cancel_code(time_left_s: float | None) -> str:
    """Returns whether work that was cancelled ran out of time or was given up."""
    late = has_run_out(time_left_s)
    return (grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED).name


@contextmanager
def work_span(
    tracer: trace.Tracer, name: str, attributes: Mapping[str, AttributeValue] | None = None
) -> Iterator[trace.Span]:
    """Gives the span of a piece of work, which is the current one meanwhile."""
    with tracer.start_as_current_span(
        name, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except BaseException as error:
            note_failure(span, code_of(error))
            raise
