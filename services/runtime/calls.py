"""How one process of the mesh calls another: span, deadline, trace context, error.

The only place where a stub is called. What is left of the caller's deadline goes along, the W3C
`traceparent` and the request's ID too, and a failure comes back as an error of `errors.py`.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import grpc
import structlog
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from . import telemetry
from .deadlines import time_left
from .errors import DeadlinePassed, MeshError
from .interceptors import REQUEST_ID_KEY
from .status import from_rpc_error

Metadata = tuple[tuple[str, str], ...]

KEEPALIVE_TIME_MS = 10_000
KEEPALIVE_TIMEOUT_MS = 5_000


def open_channel(address: str, *, max_message_bytes: int) -> grpc.aio.Channel:
    """Returns a channel with explicit message limits that reconnects within 0.3 s.

    A peer that is cut off, not ended, breaks no connection by itself. Once it leaves something
    unacknowledged for `KEEPALIVE_TIMEOUT_MS`, the connection ends: keepalive sets that as TCP's
    user timeout. A peer that is merely stopped acknowledges, and keeps its connection.
    """
    return grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            # The default first retry waits a second, which a restarting stage does not need.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 300),
            # A container that is made anew may have another address; half a minute is the default.
            ("grpc.dns_min_time_between_resolutions_ms", 1000),
            ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ],
    )


@dataclass(frozen=True, slots=True)
class StageCaller:
    """Calls the methods of one stage service.

    Attributes:
        stage: name of the stage, for spans and errors, e.g. `diffusion`.
        tracer: makes the client spans.
    """

    stage: str
    tracer: trace.Tracer

    async def unary(self, method: Callable[..., Any], request: Any) -> Any:
        """Returns the response of a unary method.

        Raises:
            MeshError: whatever the status of the call means.
        """
        with self._span(method) as (timeout_s, metadata):
            return await method(request, timeout=timeout_s, metadata=metadata)

    async def stream(self, method: Callable[..., Any], request: Any) -> AsyncGenerator[Any, None]:
        """Yields the responses of a server-streaming method; closing it cancels the call.

        Raises:
            MeshError: whatever the status of the call means.
        """
        span, timeout_s, metadata = self._start(method)
        call = method(request, timeout=timeout_s, metadata=metadata)
        try:
            with self._ending(span):
                async for response in call:
                    yield response
        finally:
            call.cancel()

    @contextmanager
    def _span(self, method: Callable[..., Any]) -> Iterator[tuple[float | None, Metadata]]:
        span, timeout_s, metadata = self._start(method)
        with self._ending(span):
            yield timeout_s, metadata

    def _start(self, method: Callable[..., Any]) -> tuple[trace.Span, float | None, Metadata]:
        timeout_s = time_left()
        if timeout_s is not None and timeout_s <= 0:
            raise DeadlinePassed(f"no time left for {self.stage}", metadata={"stage": self.stage})
        name = _method_name(method)
        attributes = {
            telemetry.RPC_SYSTEM: "grpc",
            telemetry.RPC_METHOD: name,
            telemetry.STAGE: self.stage,
        }
        span = self.tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
        carrier: dict[str, str] = {}
        propagator = TraceContextTextMapPropagator()
        propagator.inject(carrier, context=trace.set_span_in_context(span))
        request_id = structlog.contextvars.get_contextvars().get("request_id", "")
        return span, timeout_s, (*carrier.items(), (REQUEST_ID_KEY, str(request_id)))

    @contextmanager
    def _ending(self, span: trace.Span) -> Iterator[None]:
        """Ends the span with the call's status; the span is never made the current one."""
        code = "OK"
        try:
            yield
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            raise from_rpc_error(error, stage=self.stage) from error
        except (asyncio.CancelledError, GeneratorExit):
            code = "CANCELLED"
            raise
        except MeshError as error:
            code = error.code.name
            raise
        finally:
            span.set_attribute(telemetry.RPC_STATUS, code)
            if code != "OK":
                span.set_attribute(telemetry.ERROR_TYPE, code)
                span.set_status(Status(StatusCode.ERROR, code))
            span.end()


def _method_name(method: Callable[..., Any]) -> str:
    """Returns `package.Service/Method` of a stub's method."""
    raw = cast("bytes | str", getattr(method, "_method", b""))
    return (raw.decode() if isinstance(raw, bytes) else raw).lstrip("/")
