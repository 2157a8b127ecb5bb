"""How one process of the mesh calls another: span, deadline, trace context, error.

The only place where a stub is called. What is left of the caller's deadline goes along, the W3C
`traceparent` and the request's ID too, and a failure comes back as an error of `errors.py`.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import grpc
import structlog
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from . import telemetry
from .deadlines import time_left
from .errors import DeadlinePassed
from .interceptors import REQUEST_ID_KEY
from .span_status import OK, code_of, note_call_end
from .status import from_rpc_error

Metadata = tuple[tuple[str, str], ...]
Attributes = Mapping[str, AttributeValue]

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

    async def unary(
        self, method: Callable[..., Any], request: Any, attributes: Attributes | None = None
    ) -> Any:
        """Returns the response of a unary method.

        Args:
            method: of a stub.
            request: its request.
            attributes: what else the span says of the call.

        Raises:
            MeshError: whatever the status of the call means.
        """
        span, timeout_s, metadata = self._start(method, attributes)
        with self._ending(span):
            return await method(request, timeout=timeout_s, metadata=metadata)

    async def stream(
        self, method: Callable[..., Any], request: Any, attributes: Attributes | None = None
    ) -> AsyncGenerator[Any, None]:
        """Yields the responses of a server-streaming method; closing it cancels the call.

        Args:
            method: of a stub.
            request: its request.
            attributes: what else the span says of the call.

        Raises:
            MeshError: whatever the status of the call means.
        """
        span, timeout_s, metadata = self._start(method, attributes)
        with self._ending(span):
            call = method(request, timeout=timeout_s, metadata=metadata)
            try:
                async for response in call:
                    yield response
            finally:
                call.cancel()

    def _start(
        self, method: Callable[..., Any], further: Attributes | None
    ) -> tuple[trace.Span, float | None, Metadata]:
        timeout_s = time_left()
        if timeout_s is not None and timeout_s <= 0:
            raise DeadlinePassed(f"no time left for {self.stage}", metadata={"stage": self.stage})
        name = _method_name(method)
        attributes = {
            telemetry.RPC_SYSTEM: "grpc",
            telemetry.RPC_METHOD: name,
            telemetry.STAGE: self.stage,
            **(further or {}),
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
        code = OK
        try:
            yield
        except grpc.aio.AioRpcError as error:
            code = code_of(error)
            raise from_rpc_error(error, stage=self.stage) from error
        except BaseException as error:
            code = code_of(error)
            raise
        finally:
            note_call_end(span, code)
            span.end()


def _method_name(method: Callable[..., Any]) -> str:
    """Returns `package.Service/Method` of a stub's method."""
    raw = cast("bytes | str", getattr(method, "_method", b""))
    return (raw.decode() if isinstance(raw, bytes) else raw).lstrip("/")
