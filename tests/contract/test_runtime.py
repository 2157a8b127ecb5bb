"""What every service does around a call. Run: pytest tests/contract/test_runtime.py"""

import asyncio

import grpc
import pytest
from collectors import Collector
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from hosting import Spans, hosted
from scraping import Values, fetch, free_ports

from sangsang.services.runtime.calls import StageCaller, open_channel
from sangsang.services.runtime.deadlines import set_time_left, time_left
from sangsang.services.runtime.errors import (
    DeadlinePassed,
    FieldViolation,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    StageFailed,
    StageLost,
    StageUnavailable,
    TenantRateExceeded,
)
from sangsang.services.runtime.metrics import declarations
from sangsang.services.runtime.server import ServiceHost
from sangsang.services.runtime.settings import MEBIBYTE, ProcessSettings
from sangsang.services.runtime.telemetry import Telemetry
from sangsang.stages.v1alpha1 import diffusion_service_pb2 as pb
from sangsang.stages.v1alpha1 import diffusion_service_pb2_grpc as pb_grpc
from sangsang.stages.v1alpha1 import text_encoding_service_pb2 as text_pb
from sangsang.stages.v1alpha1 import text_encoding_service_pb2_grpc as text_grpc

ERRORS = {
    "invalid": InvalidRequest([FieldViolation("a", "is bad"), FieldViolation("b", "is worse")]),
    "missing": ModelNotFound("x", ["pocket"]),
    "full": Overloaded("full", retry_delay_s=0.25),
    "away": StageUnavailable("away", retry_delay_s=0.2501),
    "tenant": TenantRateExceeded("acme", "2 requests a second", retry_delay_s=0.0401),
    "lost": StageLost("the engine hangs"),
    "failed": StageFailed("broke"),
    "bug": KeyError("secret"),
}


class FakeText(text_grpc.TextEncodingServiceServicer):
    """Does what the text says."""

    def __init__(self):
        self.time_left: float | None = None
        self.cancelled = asyncio.Event()

    async def EncodeText(self, request, context):
        if request.text in ERRORS:
            raise ERRORS[request.text]
        self.time_left = time_left()
        if request.text == "wait":
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return text_pb.EncodeTextResponse(token_count=7)


class FakeDiffusion(pb_grpc.DiffusionServiceServicer):
    """Streams steps for ever, or fails after two."""

    def __init__(self):
        self.closed = asyncio.Event()

    async def Denoise(self, request, context):
        try:
            for step in range(1, 10_000):
                if step > 2 and request.model_id in ERRORS:
                    raise ERRORS[request.model_id]
                if step > request.step_count > 0:
                    return
                yield pb.DenoiseResponse(progress=pb.DenoiseProgress(completed_step_count=step))
                await asyncio.sleep(0.01)
        finally:
            self.closed.set()


class FakeService:
    name = "fake"
    service_names = ("sangsang.stages.v1alpha1.TextEncodingService",)

    def __init__(self):
        self.text, self.diffusion = FakeText(), FakeDiffusion()
        self.closed = False

    def add_to_server(self, server, telemetry):
        text_grpc.add_TextEncodingServiceServicer_to_server(self.text, server)
        pb_grpc.add_DiffusionServiceServicer_to_server(self.diffusion, server)

    def measure(self, metrics):
        pass

    def watch(self, on_fatal):
        self.on_fatal = on_fatal

    async def load(self):
        pass

    async def close(self):
        self.closed = True


@pytest.fixture
def spans():
    return Spans()


@pytest.fixture
async def service(spans):
    fake = FakeService()
    async with hosted(fake, ProcessSettings(lame_duck_s=0.05), spans) as host:
        fake.port = host.port
        yield fake


@pytest.fixture
async def channel(service):
    async with open_channel(f"127.0.0.1:{service.port}", max_message_bytes=MEBIBYTE) as channel:
        yield channel


@pytest.fixture
def caller(spans):
    return StageCaller("text_encoding", spans.telemetry("caller").tracer)


def details_of(error: grpc.aio.AioRpcError) -> dict[str, object]:
    status = rpc_status.from_call(error)
    kinds = (
        error_details_pb2.ErrorInfo,
        error_details_pb2.BadRequest,
        error_details_pb2.RetryInfo,
        error_details_pb2.ResourceInfo,
        error_details_pb2.QuotaFailure,
        error_details_pb2.RequestInfo,
    )
    found = {}
    for packed in status.details:
        for kind in kinds:
            message = kind()
            if packed.Unpack(message):
                assert kind.__name__ not in found, "each kind of detail at most once"
                found[kind.__name__] = message
    return found


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("invalid", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SPEC"),
        ("missing", grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
        ("full", grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
        ("tenant", grpc.StatusCode.RESOURCE_EXHAUSTED, "TENANT_RATE"),
        ("failed", grpc.StatusCode.INTERNAL, "STAGE_FAILED"),
        ("bug", grpc.StatusCode.INTERNAL, "INTERNAL"),
    ],
)
async def test_an_error_has_its_code_reason_and_span(channel, spans, text, code, reason):
    stub = text_grpc.TextEncodingServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.EncodeText(text_pb.EncodeTextRequest(text=text))
    assert failed.value.code() is code
    assert details_of(failed.value)["ErrorInfo"].reason == reason
    assert details_of(failed.value)["ErrorInfo"].domain == "imaging.sangsang.dev"
    [span] = await ended(spans, "EncodeText", 1, server=True)
    assert span.status.status_code.name == "ERROR"
    assert span.attributes["rpc.response.status_code"] == code.name
    await stub.EncodeText(text_pb.EncodeTextRequest(text="fine"))


async def test_every_bad_field_is_listed(channel):
    stub = text_grpc.TextEncodingServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.EncodeText(text_pb.EncodeTextRequest(text="invalid"))
    violations = details_of(failed.value)["BadRequest"].field_violations
    assert [(v.field, v.description) for v in violations] == [("a", "is bad"), ("b", "is worse")]


async def test_bytes_that_are_no_message_are_an_invalid_argument(channel):
    method = "/sangsang.stages.v1alpha1.TextEncodingService/EncodeText"
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await channel.unary_unary(method)(b"\xff\xff\xff")
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_refusal_says_when_to_come_back(channel):
    stub = text_grpc.TextEncodingServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.EncodeText(text_pb.EncodeTextRequest(text="full"))
    assert details_of(failed.value)["RetryInfo"].retry_delay.ToMilliseconds() == 250


@pytest.mark.parametrize(
    ("text", "pushback"), [("full", "-1"), ("tenant", "-1"), ("away", "251"), ("failed", None)]
)
async def test_the_retries_of_grpc_are_held_back_too(channel, text, pushback):
    stub = text_grpc.TextEncodingServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.EncodeText(text_pb.EncodeTextRequest(text=text))
    assert dict(failed.value.trailing_metadata()).get("grpc-retry-pushback-ms") == pushback


async def test_a_tenant_at_its_limit_is_told_which(channel):
    stub = text_grpc.TextEncodingServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.EncodeText(text_pb.EncodeTextRequest(text="tenant"))
    [violation] = details_of(failed.value)["QuotaFailure"].violations
    assert violation.subject == "tenant:acme"
    assert "2 requests a second" in violation.description
    metadata = details_of(failed.value)["ErrorInfo"].metadata
    assert metadata == {"tenant": "acme", "limit": "2 requests a second"}


async def test_a_bug_tells_the_caller_nothing_but_the_request(channel):
    stub = text_grpc.TextEncodingServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        request = text_pb.EncodeTextRequest(text="bug")
        await stub.EncodeText(request, metadata=(("sangsang-request-id", "r-1"),))
    assert "secret" not in failed.value.details()
    assert details_of(failed.value)["RequestInfo"].request_id == "r-1"


@pytest.mark.parametrize("name", ["invalid", "full", "away", "lost", "failed"])
async def test_an_error_comes_back_as_what_it_was(channel, caller, name):
    stub = text_grpc.TextEncodingServiceStub(channel)
    with pytest.raises(type(ERRORS[name])) as failed:
        await caller.unary(stub.EncodeText, text_pb.EncodeTextRequest(text=name))
    assert type(failed.value) is type(ERRORS[name])
    if name == "invalid":
        assert failed.value.violations == ERRORS[name].violations
    if name == "full":
        assert failed.value.retry_delay_s == 0.25


async def test_a_trace_goes_on_across_the_call(channel, caller, spans):
    stub = text_grpc.TextEncodingServiceStub(channel)
    await caller.unary(stub.EncodeText, text_pb.EncodeTextRequest(text="fine"))
    [client] = await ended(spans, "EncodeText", 1, server=False)
    [server] = await ended(spans, "EncodeText", 1, server=True)
    assert server.context.trace_id == client.context.trace_id
    assert server.parent.span_id == client.context.span_id
    assert {client.status.status_code.name, server.status.status_code.name} == {"UNSET"}


async def test_a_deadline_that_passes_is_told_in_status_and_span(service, channel, spans):
    stub = text_grpc.TextEncodingServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.EncodeText(text_pb.EncodeTextRequest(text="wait"), timeout=0.1)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(service.text.cancelled.wait(), 5)
    [span] = await ended(spans, "EncodeText", 1, server=True)
    assert span.attributes["rpc.response.status_code"] == "DEADLINE_EXCEEDED"


async def test_a_cancelled_call_is_told_apart_from_a_late_one(service, channel, spans):
    stub = text_grpc.TextEncodingServiceStub(channel)
    call = stub.EncodeText(text_pb.EncodeTextRequest(text="wait"), timeout=30)
    await asyncio.sleep(0.1)
    call.cancel()
    await asyncio.wait_for(service.text.cancelled.wait(), 5)
    [span] = await ended(spans, "EncodeText", 1, server=True)
    assert span.attributes["rpc.response.status_code"] == "CANCELLED"


async def test_what_is_left_of_the_deadline_goes_along(service, channel, caller):
    stub = text_grpc.TextEncodingServiceStub(channel)
    set_time_left(300.0)
    await caller.unary(stub.EncodeText, text_pb.EncodeTextRequest(text="fine"))
    # gRPC rounds the header, so a little more than was given may arrive.
    assert 200 < service.text.time_left < 310
    set_time_left(0.0)
    with pytest.raises(DeadlinePassed):
        await caller.unary(stub.EncodeText, text_pb.EncodeTextRequest(text="fine"))


async def test_a_stream_ends_well(service, channel, spans):
    stub = pb_grpc.DiffusionServiceStub(channel)
    steps = [r async for r in stub.Denoise(pb.DenoiseRequest(step_count=3))]
    assert len(steps) == 3
    [span] = await ended(spans, "Denoise", 1, server=True)
    assert span.attributes["rpc.response.status_code"] == "OK"


async def test_a_stream_that_fails_half_way_has_its_error(channel, caller, spans):
    stub = pb_grpc.DiffusionServiceStub(channel)
    received = []
    with pytest.raises(Overloaded):
        async for response in caller.stream(stub.Denoise, pb.DenoiseRequest(model_id="full")):
            received.append(response)
    assert len(received) == 2
    for server in (True, False):
        [span] = await ended(spans, "Denoise", 1, server=server)
        assert span.attributes["rpc.response.status_code"] == "RESOURCE_EXHAUSTED"


async def test_closing_a_stream_stops_the_work_and_ends_both_spans(service, channel, caller, spans):
    stub = pb_grpc.DiffusionServiceStub(channel)
    responses = caller.stream(stub.Denoise, pb.DenoiseRequest())
    await anext(responses)
    await responses.aclose()
    await asyncio.wait_for(service.diffusion.closed.wait(), 5)
    both = await ended(spans, "Denoise", 2)
    codes = {span.attributes["rpc.response.status_code"] for span in both}
    assert codes == {"CANCELLED"}


async def test_health_and_reflection_answer(channel):
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="*")
    async for response in stub.ServerReflectionInfo(iter([request])):
        names = {s.name for s in response.list_services_response.service}
    assert "sangsang.stages.v1alpha1.TextEncodingService" in names
    assert "grpc.health.v1.Health" in names


async def test_a_message_over_the_limit_is_refused_and_the_next_is_answered(channel):
    stub = text_grpc.TextEncodingServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.EncodeText(text_pb.EncodeTextRequest(text="x" * (2 * MEBIBYTE)))
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await stub.EncodeText(text_pb.EncodeTextRequest(text="fine"))).token_count == 7


async def test_draining_tells_first_and_lets_running_calls_finish(spans):
    fake = FakeService()
    async with hosted(fake, ProcessSettings(lame_duck_s=0.3, grace_s=5), spans) as host:
        async with open_channel(f"127.0.0.1:{host.port}", max_message_bytes=MEBIBYTE) as channel:
            stub = pb_grpc.DiffusionServiceStub(channel)
            call = stub.Denoise(pb.DenoiseRequest(step_count=60))
            responses = aiter(call)
            await anext(responses)
            draining = asyncio.create_task(host.drain())
            await asyncio.sleep(0.1)
            health = health_pb2_grpc.HealthStub(channel)
            response = await health.Check(health_pb2.HealthCheckRequest())
            assert response.status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert len([r async for r in responses]) == 59
            await draining
        assert fake.closed


async def test_draining_waits_for_nobody_who_only_watches(spans):
    fake = FakeService()
    async with (
        hosted(fake, ProcessSettings(lame_duck_s=0, grace_s=60), spans) as host,
        open_channel(f"127.0.0.1:{host.port}", max_message_bytes=MEBIBYTE) as channel,
    ):
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        responses = aiter(watching)
        assert (await anext(responses)).status == health_pb2.HealthCheckResponse.SERVING
        stub = pb_grpc.DiffusionServiceStub(channel)
        steps = aiter(stub.Denoise(pb.DenoiseRequest(step_count=60)))
        await anext(steps)
        async with asyncio.timeout(30):
            draining = asyncio.create_task(host.drain())
            assert (await anext(responses)).status == health_pb2.HealthCheckResponse.NOT_SERVING
            # A call that runs is waited for all the same.
            assert len([step async for step in steps]) == 59
            await draining
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await anext(responses)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert fake.closed


@pytest.mark.parametrize("grace_s", [0, 0.3])
async def test_calls_that_outlast_the_grace_are_unavailable(spans, grace_s):
    fake = FakeService()
    settings = ProcessSettings(lame_duck_s=0, grace_s=grace_s)
    async with (
        hosted(fake, settings, spans) as host,
        open_channel(f"127.0.0.1:{host.port}", max_message_bytes=MEBIBYTE) as channel,
    ):
        steps = aiter(pb_grpc.DiffusionServiceStub(channel).Denoise(pb.DenoiseRequest()))
        await anext(steps)
        text = text_grpc.TextEncodingServiceStub(channel)
        waiting = text.EncodeText(text_pb.EncodeTextRequest(text="wait"), timeout=30)
        async with asyncio.timeout(5):
            while fake.text.time_left is None:
                await asyncio.sleep(0.01)
            await host.drain()
        for call in (waiting, drained(steps)):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "the service is stopping" in failed.value.details()
            assert details_of(failed.value)["ErrorInfo"].reason == "STAGE_UNAVAILABLE"
            assert details_of(failed.value)["RetryInfo"].retry_delay.ToMilliseconds() == 1000
    assert fake.text.cancelled.is_set(), "the work of an ended call is cancelled"
    assert fake.diffusion.closed.is_set()
    codes = {span.attributes["rpc.response.status_code"] for span in spans.ended}
    assert codes == {"UNAVAILABLE"}


async def test_a_process_that_cannot_be_trusted_says_so_and_waits_for_nothing(spans):
    fake = FakeService()
    settings = ProcessSettings(lame_duck_s=60, grace_s=60)
    host = ServiceHost(fake, settings, spans.telemetry("fake"))
    await host.start()
    async with open_channel(f"127.0.0.1:{host.port}", max_message_bytes=MEBIBYTE) as channel:
        text = text_grpc.TextEncodingServiceStub(channel)
        waiting = text.EncodeText(text_pb.EncodeTextRequest(text="wait"), timeout=30)
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await anext(aiter(watching))).status == health_pb2.HealthCheckResponse.SERVING
        async with asyncio.timeout(10):
            while fake.text.time_left is None:
                await asyncio.sleep(0.01)
            fake.on_fatal()
            assert host.stopping.is_set()
            assert host.failed
            abandoned = asyncio.create_task(host.abandon())
            response = await anext(aiter(watching))
            assert response.status == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await waiting
            await abandoned
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not fake.closed, "closing would wait for an engine that may hang"


async def drained(responses):
    async for _ in responses:
        pass


async def test_lost_spans_are_in_the_metrics():
    with Collector(refusal=grpc.StatusCode.INTERNAL).served() as collector:
        telemetry = Telemetry.to_collector("fake", collector.address)
        port = free_ports(1)
        settings = ProcessSettings(metrics_port=port, lame_duck_s=0)
        host = ServiceHost(FakeService(), settings, telemetry)
        await host.start()
        try:
            for number in range(3):
                telemetry.tracer.start_span(str(number)).end()
            await asyncio.to_thread(telemetry.flush)
            values = Values(await asyncio.to_thread(fetch, port))
            assert values.of(declarations.SPANS_LOST) == 3
        finally:
            await host.drain()


async def test_a_stage_that_is_not_there_is_unavailable(caller):
    async with open_channel("127.0.0.1:1", max_message_bytes=MEBIBYTE) as channel:
        stub = text_grpc.TextEncodingServiceStub(channel)
        with pytest.raises(StageUnavailable, match="text_encoding") as failed:
            await caller.unary(stub.EncodeText, text_pb.EncodeTextRequest(text="fine"))
        assert not isinstance(failed.value, StageLost), "it never had the call"


async def ended(spans: Spans, name: str, count: int, *, server: bool | None = None):
    """The spans of this name; a server may end its own after the caller has its answer."""
    async with asyncio.timeout(5.0):
        while len(found := spans.named(name, server=server)) < count:
            await asyncio.sleep(0.01)
    return found
