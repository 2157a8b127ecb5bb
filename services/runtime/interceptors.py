"""What happens around every call that a service answers: span, deadline, error, log line.

OpenTelemetry's own gRPC instrumentation loses the status on deadline and cancel and never ends the
span of a cancelled stream (measured with 0.66b2), so these few lines are ours. A streaming handler
is driven with `context.write` inside one coroutine: its span and context then live in one task,
and its generator is closed at once when the caller goes.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias, cast

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_status import rpc_status
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from . import telemetry
from .deadlines import set_time_left
from .errors import FieldViolation, InvalidRequest, MeshError, StageFailed
from .metrics.calls import CallMetrics
from .running_calls import RunningCalls
from .span_status import OK, cancel_code, note_call_end
from .status import to_grpc_status, unknown_status

REQUEST_ID_KEY = "sangsang-request-id"

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

Parser: TypeAlias = Callable[[bytes], Any] | None
Writer: TypeAlias = Callable[[Any], bytes] | None

# Not even logged: they come all the time, and taking a span must not make another one.
_UNTRACED = ("/grpc.health.", "/grpc.reflection.", "/opentelemetry.proto.collector.")
# Who looks at traces does not want to find himself there.
_UNRECORDED = ("/sangsang.tracing.",)
_nothing = trace.NoOpTracer()
_log = structlog.get_logger()


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler but health and reflection.

    Args:
        tracer: makes the server spans.
        calls: knows the calls that run.
        on_fatal: called when a `StageFailed` says that the process must end.
        metrics: counts the calls; None for nobody who asks.
    """

    def __init__(
        self,
        tracer: trace.Tracer,
        calls: RunningCalls,
        *,
        on_fatal: Callable[[], None],
        metrics: CallMetrics | None = None,
    ) -> None:
        self._tracer = tracer
        self._calls = calls
        self._on_fatal = on_fatal
        self._metrics = metrics

    async def intercept_service(  # pyright: ignore[reportIncompatibleMethodOverride] its types never match
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or method.startswith(_UNTRACED):
            return handler
        write = handler.response_serializer
        if handler.request_streaming:
            both: Any = self._stream(handler.stream_stream, method, None, write)
            read = handler.request_deserializer
            return grpc.stream_stream_rpc_method_handler(both, read, None)
        # Requests are parsed below: grpc.aio would answer unreadable bytes with UNKNOWN. Answers
        # are written there too, which tells their size for nothing.
        parse = handler.request_deserializer
        if handler.response_streaming:
            stream: Any = self._stream(handler.unary_stream, method, parse, write)
            return grpc.unary_stream_rpc_method_handler(stream, None, None)
        unary: Any = self._unary(handler.unary_unary, method, parse, write)
        return grpc.unary_unary_rpc_method_handler(unary, None, None)

    def _unary(
        self,
        behaviour: Callable[[Any, Context], Awaitable[Any]],
        method: str,
        parse: Parser,
        write: Writer,
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        async def answer(request: Any, context: Context) -> Any:
            _note_bytes(telemetry.REQUEST_BYTES, request)
            response = _written(await behaviour(_parsed(request, parse), context), write)
            _note_bytes(telemetry.RESPONSE_BYTES, response)
            return response

        async def unary(request: Any, context: Context) -> Any:
            return await self._observed(answer(request, context), context, method)

        return unary

    def _stream(
        self,
        behaviour: Callable[[Any, Context], AsyncIterator[Any]],
        method: str,
        parse: Parser,
        write: Writer,
    ) -> Callable[[Any, Context], Awaitable[None]]:
        async def write_all(request: Any, context: Context) -> None:
            _note_bytes(telemetry.REQUEST_BYTES, request)
            responses, size_bytes = cast(Any, behaviour(_parsed(request, parse), context)), 0
            try:
                async with aclosing(responses):
                    async for response in responses:
                        data = _written(response, write)
                        size_bytes += len(data)
                        await context.write(data)
            finally:
                trace.get_current_span().set_attribute(telemetry.RESPONSE_BYTES, size_bytes)

        async def stream(request: Any, context: Context) -> None:
            await self._observed(write_all(request, context), context, method)

        return stream

    async def _observed(self, work: Awaitable[Any], context: Context, method: str) -> Any:
        """Returns the result of `work`, which runs within the call's span."""
        metadata = {k: v for k, v in context.invocation_metadata() or () if isinstance(v, str)}
        set_time_left(context.time_remaining())
        structlog.contextvars.bind_contextvars(request_id=metadata.get(REQUEST_ID_KEY, ""))
        parent = TraceContextTextMapPropagator().extract(metadata)
        attributes = {telemetry.RPC_SYSTEM: "grpc", telemetry.RPC_METHOD: method.lstrip("/")}
        tracer = _nothing if method.startswith(_UNRECORDED) else self._tracer
        with tracer.start_as_current_span(
            method.lstrip("/"),
            context=parent,
            kind=SpanKind.SERVER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            return await self._answered(self._calls.run(work), context, method, span)

    async def _answered(
        self, work: Awaitable[Any], context: Context, method: str, span: trace.Span
    ) -> Any:
        """Returns the result of `work`, or ends the call with the status of its error."""
        started_at = time.perf_counter()
        code = OK
        try:
            return await work
        except asyncio.CancelledError:
            code = cancel_code(context.time_remaining())
            raise
        except grpc.aio.AbortError:
            # No handler of ours ends its call itself, and gRPC does not tell with which status.
            code = grpc.StatusCode.UNKNOWN.name
            raise
        except MeshError as error:
            code = error.code.name
            await self._abort_known(error, context)
        except Exception:
            code = grpc.StatusCode.INTERNAL.name
            _log.exception("call_crashed", method=method)
            status = unknown_status(request_id=_bound_request_id())
            await context.abort_with_status(cast(Any, rpc_status.to_status(status)))
        finally:
            note_call_end(span, code)
            seconds = time.perf_counter() - started_at
            if self._metrics is not None:
                self._metrics.note(method.lstrip("/"), code, seconds)
            duration_ms = round(seconds * 1000, 1)
            _log.info("call_finished", method=method, code=code, duration_ms=duration_ms)

    async def _abort_known(self, error: MeshError, context: Context) -> None:
        if isinstance(error, StageFailed):
            _log.error("stage_failed", fatal=error.fatal, exc_info=error)
            if error.fatal:
                self._on_fatal()
        await context.abort_with_status(to_grpc_status(error, request_id=_bound_request_id()))


def _parsed(request: Any, parse: Parser) -> Any:
    """Returns the message of a request's bytes; the request itself where there is no parser."""
    if parse is None:
        return request
    try:
        return parse(request)
    except DecodeError as error:
        raise InvalidRequest([FieldViolation("", "the bytes are not this message")]) from error


def _written(response: Any, write: Writer) -> Any:
    """Returns the bytes of a response; the response itself where there is no serializer."""
    return response if write is None else write(response)


def _note_bytes(name: str, data: Any) -> None:
    """Notes how large a message is, where it is bytes: those of a stream come one by one."""
    if isinstance(data, bytes):
        trace.get_current_span().set_attribute(name, len(data))


def _bound_request_id() -> str:
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))
