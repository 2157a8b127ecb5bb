"""Puts the store of traces into a server: what fills it, and what shows it."""

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

from sangsang.tracing.v1alpha1 import trace_inspection_service_pb2_grpc as inspection_grpc

from ...services.runtime.telemetry import Telemetry
from .inspection import TraceInspection
from .receiver import SpanReceiver, StoreExporter
from .store import TraceStore
from .trace_limits import TraceLimits


def add_trace_store(
    server: grpc.aio.Server, telemetry: Telemetry, limits: TraceLimits | None
) -> None:
    """Has a server keep traces and show them; without limits it only says that it keeps none."""
    store = TraceStore(limits) if limits else None
    if store is not None:
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(SpanReceiver(store), server)
        telemetry.add_exporter(StoreExporter(store), target="the orchestrator's own store")
    inspection_grpc.add_TraceInspectionServiceServicer_to_server(
        TraceInspection(store, lambda: telemetry.lost_span_count), server
    )
