"""The protocol's methods as gRPC handlers.

Generic handlers, because generated server code would register the messages in the default pool.
They take bytes and parse them here: grpc.aio answers a message that its deserializer cannot read
with UNKNOWN and the name of the exception, and the caller is to blame for it.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from ..errors import FieldViolation, InvalidRequest
from . import messages
from .messages import Proto
from .served_engine import ServedEngine
from .servicer import OpenInferenceServicer, ServerIdentity


def open_inference_handler(
    engines: Callable[[], Mapping[str, ServedEngine]],
    *,
    ready: Callable[[], bool],
    identity: ServerIdentity,
) -> grpc.GenericRpcHandler:
    """Returns the protocol's service, for `grpc.aio.Server.add_generic_rpc_handlers`.

    Args:
        engines: returns the engines by the names they are served under; called for every request,
            so engines may come and go.
        ready: returns whether the stage takes work.
        identity: who the server says it is.
    """
    servicer = OpenInferenceServicer(engines, ready, identity)
    unary: dict[str, Callable[..., Any]] = {
        "ServerLive": servicer.server_live,
        "ServerReady": servicer.server_ready,
        "ModelReady": servicer.model_ready,
        "ServerMetadata": servicer.server_metadata,
        "ModelMetadata": servicer.model_metadata,
        "ModelInfer": servicer.model_infer,
        "ModelConfig": servicer.model_config,
        "ModelStatistics": servicer.model_statistics,
        "RepositoryIndex": servicer.repository_index,
    }
    handlers = {method: _unary_handler(method, answer) for method, answer in unary.items()}
    handlers["ModelStreamInfer"] = _stream_handler(servicer.model_stream_infer)
    return grpc.method_handlers_generic_handler(messages.SERVICE_NAME, handlers)


def _unary_handler(
    method: str, answer: Callable[[Proto, object], Awaitable[Proto]]
) -> "grpc.RpcMethodHandler[Any, Any]":
    request_class = getattr(messages, f"{method}Request")

    async def parse_and_answer(data: bytes, context: object) -> Proto:
        return await answer(_parse(request_class, data), context)

    behavior: Any = parse_and_answer
    return grpc.unary_unary_rpc_method_handler(
        behavior, response_serializer=getattr(messages, f"{method}Response").SerializeToString
    )


def _stream_handler(
    answer: Callable[[AsyncIterator[Proto], object], AsyncGenerator[Proto, None]],
) -> "grpc.RpcMethodHandler[Any, Any]":
    async def parse(items: AsyncIterator[bytes]) -> AsyncIterator[Proto]:
        async for data in items:
            yield _parse(messages.ModelInferRequest, data)

    # A generator itself, because grpc.aio looks at the kind of function it is given.
    async def parse_and_answer(
        items: AsyncIterator[bytes], context: object
    ) -> AsyncIterator[Proto]:
        async with aclosing(answer(parse(items), context)) as responses:
            async for response in responses:
                yield response

    behavior: Any = parse_and_answer
    return grpc.stream_stream_rpc_method_handler(
        behavior, response_serializer=messages.ModelStreamInferResponse.SerializeToString
    )


def _parse(request_class: Proto, data: bytes) -> Proto:
    """Returns the message in `data`.

    Raises:
        InvalidRequest: there is none.
    """
    try:
        return request_class.FromString(data)
    except DecodeError as error:
        description = f"the bytes are not a {request_class.DESCRIPTOR.name}"
        raise InvalidRequest([FieldViolation("request", description)]) from error
