"""Spans go to a collector, which may be the orchestrator, may hang, refuse, or not be there."""

import asyncio
import time

import grpc
import pytest
from collectors import USELESS, Collector
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

from sangsang.orchestrator.tracing.receiver import SpanReceiver, StoreExporter
from sangsang.orchestrator.tracing.store import TraceStore
from sangsang.orchestrator.tracing.trace_limits import TraceLimits
from sangsang.services.runtime.span_batches import BATCH_LIMIT, QUEUE_LIMIT
from sangsang.services.runtime.telemetry import Telemetry


@pytest.fixture
def store():
    return TraceStore(TraceLimits(100, 1 << 20))


@pytest.fixture
async def collector(store):
    """Address of a collector that keeps what it gets."""
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(SpanReceiver(store), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


def make(telemetry, count=10):
    with telemetry.tracer.start_as_current_span("outer", attributes={"a": 1, "b": [1.5, 2.5]}):
        for number in range(count - 1):
            telemetry.tracer.start_span(str(number)).end()


@pytest.mark.parametrize("scheme", ["", "http://"])
async def test_spans_arrive_as_they_were(collector, store, scheme):
    telemetry = Telemetry.to_collector("diffusion", f"{scheme}{collector}")
    make(telemetry)
    await asyncio.to_thread(telemetry.close)
    [trace_id] = store.trace_ids("")
    spans = store.get(trace_id).spans()
    assert len(spans) == 10
    assert {span.service for span in spans} == {"diffusion"}
    [outer] = [span for span in spans if span.name == "outer"]
    assert outer.attributes == {"a": 1, "b": (1.5, 2.5)}
    assert {span.parent_id for span in spans} == {"", outer.span_id}
    assert telemetry.lost_span_count == 0


def test_the_processes_own_spans_arrive_the_same_way(store):
    telemetry = Telemetry("orchestrator")
    telemetry.add_exporter(StoreExporter(store), target="store")
    make(telemetry)
    telemetry.close()
    [trace_id] = store.trace_ids("")
    assert len(store.get(trace_id).spans()) == 10


async def test_the_standard_variables_are_read(collector, store, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    telemetry = Telemetry.to_collector("diffusion", f"http://{collector}")
    [batches] = telemetry._batches
    assert batches._exporter._compression is grpc.Compression.Gzip
    assert ("x-key", "secret") in tuple(batches._exporter._headers)
    make(telemetry)
    await asyncio.to_thread(telemetry.close)
    assert len(store.trace_ids("")) == 1


@pytest.mark.parametrize("kind", USELESS)
async def test_a_collector_that_takes_nothing_costs_nothing(kind):
    with USELESS[kind]() as address:
        telemetry = Telemetry.to_collector("diffusion", f"http://{address}")
        [batches] = telemetry._batches
        started_at = time.perf_counter()
        for _ in range(20):
            make(telemetry, 1000)
        took_s = time.perf_counter() - started_at
        assert telemetry.lost_span_count >= 20_000 - QUEUE_LIMIT - BATCH_LIMIT, "it is bounded"
        assert len(batches._queue) <= QUEUE_LIMIT
        started_at = time.perf_counter()
        await asyncio.to_thread(telemetry.close)
        # Exports give up after ten seconds, of which neither the spans nor the end saw anything.
        assert time.perf_counter() - started_at < 8
        assert took_s < 8
        async with asyncio.timeout(20):
            while telemetry.lost_span_count < 20_000:
                await asyncio.sleep(0.05)
        assert telemetry.lost_span_count == 20_000
        assert batches.exported_count == 0


async def test_what_a_slow_collector_cannot_take_is_lost_and_counted():
    with Collector(delay_s=0.2).served() as slow:
        telemetry = Telemetry.to_collector("diffusion", slow.address)
        [batches] = telemetry._batches
        for _ in range(20):
            make(telemetry, 1000)
        await asyncio.to_thread(telemetry.close)
        async with asyncio.timeout(20):
            while batches.exported_count + batches.lost_count < 20_000:
                await asyncio.sleep(0.05)
        assert batches.exported_count + batches.lost_count == 20_000
        assert batches.exported_count > 0
        # What was under way at the end is lost to us, and may have come there.
        assert batches.exported_count <= slow.taken_count <= batches.exported_count + BATCH_LIMIT


@pytest.mark.parametrize("refusal", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL])
async def test_spans_arrive_again_once_they_are_taken(refusal, monkeypatch):
    # So short that a refused export is not tried again.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
    with Collector(refusal=refusal).served() as collector:
        telemetry = Telemetry.to_collector("diffusion", collector.address)
        make(telemetry)
        await asyncio.to_thread(telemetry.flush)
        assert (telemetry.lost_span_count, collector.taken_count) == (10, 0)
        collector.refusal = None
        make(telemetry)
        await asyncio.to_thread(telemetry.close)
        assert (telemetry.lost_span_count, collector.taken_count) == (10, 10)
