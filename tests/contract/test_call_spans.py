"""Both ends of a call say the same of how it ended, whatever happens. One service on loopback."""

import asyncio
from contextlib import aclosing

import grpc
import pytest
from hosting import Spans, hosted

from sangsang.services.runtime.calls import StageCaller, open_channel
from sangsang.services.runtime.deadlines import set_time_left
from sangsang.services.runtime.errors import (
    CorruptTensor,
    FieldViolation,
    InvalidRequest,
    MeshError,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    StageFailed,
    StageUnavailable,
)
from sangsang.services.runtime.settings import MEBIBYTE, ProcessSettings
from sangsang.stages.v1alpha1 import diffusion_service_pb2 as pb
from sangsang.stages.v1alpha1 import diffusion_service_pb2_grpc as pb_grpc
from sangsang.stages.v1alpha1 import text_encoding_service_pb2 as text_pb
from sangsang.stages.v1alpha1 import text_encoding_service_pb2_grpc as text_grpc

ERRORS = {
    "INVALID_ARGUMENT": InvalidRequest([FieldViolation("a", "is bad: SECRET")]),
    "NOT_FOUND": ModelNotFound("SECRET", ["pocket"]),
    "FAILED_PRECONDITION": ModelNotReady("SECRET"),
    "RESOURCE_EXHAUSTED": Overloaded("SECRET"),
    "UNAVAILABLE": StageUnavailable("SECRET"),
    "DATA_LOSS": CorruptTensor("SECRET"),
    "INTERNAL": StageFailed("SECRET"),
    "bug": KeyError("SECRET"),
}
CODES = {name: "INTERNAL" if name == "bug" else name for name in ERRORS}
SHAPES = ["unary", "stream"]


class Text(text_grpc.TextEncodingServiceServicer):
    async def EncodeText(self, request, context):
        await _behave(request.text)
        return text_pb.EncodeTextResponse(token_count=7)


class Diffusion(pb_grpc.DiffusionServiceServicer):
    """Sends two messages and then does what the request's text says."""

    async def Denoise(self, request, context):
        for step in (1, 2):
            yield pb.DenoiseResponse(progress=pb.DenoiseProgress(completed_step_count=step))
        await _behave(request.model_id)
        yield pb.DenoiseResponse(result=pb.DenoiseResult())


async def _behave(text):
    if text in ERRORS:
        raise ERRORS[text]
    if text == "wait":
        await asyncio.sleep(60)


class Service:
    name = "fake"
    service_names = ("sangsang.stages.v1alpha1.TextEncodingService",)

    def add_to_server(self, server, telemetry):
        text_grpc.add_TextEncodingServiceServicer_to_server(Text(), server)
        pb_grpc.add_DiffusionServiceServicer_to_server(Diffusion(), server)

    def watch(self, on_fatal):
        pass

    async def load(self):
        pass

    async def close(self):
        pass


@pytest.fixture
def spans():
    return Spans()


@pytest.fixture
async def host(spans):
    async with hosted(Service(), ProcessSettings(lame_duck_s=0), spans) as host:
        yield host


@pytest.fixture
async def call(host, spans):
    """Calls a method of either shape through `StageCaller`."""
    caller = StageCaller("fake", spans.telemetry("caller").tracer)
    async with open_channel(f"127.0.0.1:{host.port}", max_message_bytes=MEBIBYTE) as channel:

        async def make(shape, text):
            if shape == "unary":
                stub = text_grpc.TextEncodingServiceStub(channel)
                request = text_pb.EncodeTextRequest(text=text)
                return await caller.unary(stub.EncodeText, request, {"sangsang.lane": 1})
            stub = pb_grpc.DiffusionServiceStub(channel)
            responses = caller.stream(stub.Denoise, pb.DenoiseRequest(model_id=text))
            async with aclosing(responses):
                return [response async for response in responses]

        yield make


async def both(spans):
    """The client's and the server's span, once both have ended; nothing has been left open."""
    async with asyncio.timeout(10):
        while len(spans.ended) < 2:
            await asyncio.sleep(0.005)
    assert len(spans.started) == len(spans.ended) == 2
    [client] = [span for span in spans.ended if span.kind.name == "CLIENT"]
    [server] = [span for span in spans.ended if span.kind.name == "SERVER"]
    assert server.context.trace_id == client.context.trace_id
    assert server.parent.span_id == client.context.span_id
    return client, server


def code(span):
    return span.attributes["rpc.response.status_code"]


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_call_that_goes_well(call, spans, shape):
    await call(shape, "fine")
    for span in await both(spans):
        assert code(span) == "OK"
        assert span.status.status_code.name == "UNSET"
        assert "error.type" not in span.attributes
        assert span.attributes["rpc.system.name"] == "grpc"
        assert span.attributes["rpc.method"] == span.name
    client, server = await both(spans)
    assert server.attributes["sangsang.request_bytes"] == len(b"\x12\x04fine")
    assert server.attributes["sangsang.response_bytes"] > 0
    if shape == "unary":
        assert client.attributes["sangsang.lane"] == 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("text", ERRORS)
async def test_an_error_is_the_same_at_both_ends(call, spans, shape, text):
    with pytest.raises(MeshError):
        await call(shape, text)
    for span in await both(spans):
        assert code(span) == CODES[text]
        assert span.attributes["error.type"] == CODES[text]
        assert span.status.status_code.name == "ERROR"
        assert span.status.description == CODES[text]
        assert span.events == (), "an exception's text may quote what a caller sent"
        assert "SECRET" not in str(dict(span.attributes))


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_deadline_that_passes(call, spans, shape):
    set_time_left(0.3)
    with pytest.raises(MeshError):
        await call(shape, "wait")
    assert [code(span) for span in await both(spans)] == ["DEADLINE_EXCEEDED"] * 2


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_caller_who_runs_out_of_time_and_is_cancelled_for_it(call, spans, shape):
    """As in the orchestrator, whose own caller has the same deadline: either end may be first."""
    set_time_left(0.3)
    with pytest.raises((TimeoutError, MeshError)):
        await asyncio.wait_for(call(shape, "wait"), 0.3)
    assert [code(span) for span in await both(spans)] == ["DEADLINE_EXCEEDED"] * 2


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_caller_who_leaves(call, spans, shape):
    set_time_left(60)
    task = asyncio.create_task(call(shape, "wait"))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [code(span) for span in await both(spans)] == ["CANCELLED"] * 2


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_server_that_stops(call, host, spans, shape):
    task = asyncio.create_task(call(shape, "wait"))
    await asyncio.sleep(0.2)
    host._settings = ProcessSettings(lame_duck_s=0, grace_s=0)
    await host.drain()
    with pytest.raises(StageUnavailable):
        await task
    assert [code(span) for span in await both(spans)] == ["UNAVAILABLE"] * 2


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_server_that_is_not_there(spans, shape):
    caller = StageCaller("fake", spans.telemetry("caller").tracer)
    async with open_channel("127.0.0.1:1", max_message_bytes=MEBIBYTE) as channel:
        with pytest.raises(StageUnavailable):
            if shape == "unary":
                stub = text_grpc.TextEncodingServiceStub(channel)
                await caller.unary(stub.EncodeText, text_pb.EncodeTextRequest())
            else:
                stub = pb_grpc.DiffusionServiceStub(channel)
                async for _ in caller.stream(stub.Denoise, pb.DenoiseRequest()):
                    pass
    [client] = spans.ended
    assert code(client) == "UNAVAILABLE"
    assert len(spans.started) == 1


async def test_looking_at_traces_and_exporting_them_makes_none(host, spans):
    async with open_channel(f"127.0.0.1:{host.port}", max_message_bytes=MEBIBYTE) as channel:
        for method in (
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            "/sangsang.tracing.v1alpha1.TraceInspectionService/ListTraces",
            "/grpc.health.v1.Health/Check",
        ):
            try:
                await channel.unary_unary(method)(b"")
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert spans.started == []
