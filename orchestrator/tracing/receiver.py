"""How spans come into the store: from the stages over OTLP, from this process directly.

The stages export to the orchestrator as to any collector, by the protocol's own service, so nothing
in them knows whether there is one. What comes is bounded by the store, not refused.
"""

from collections.abc import Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from .store import TraceStore


class SpanReceiver(trace_service_pb2_grpc.TraceServiceServicer):
    """The collector's service, `opentelemetry.proto.collector.trace.v1.TraceService`."""

    def __init__(self, store: TraceStore) -> None:
        self._store = store

    async def Export(  # noqa: N802 the RPC's name
        self,
        request: trace_service_pb2.ExportTraceServiceRequest,
        context: Any,  # noqa: ARG002 gRPC's
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """Takes spans in."""
        self._store.add(request.resource_spans)
        return trace_service_pb2.ExportTraceServiceResponse()


class StoreExporter(SpanExporter):
    """Takes the spans of this process into the store."""

    def __init__(self, store: TraceStore) -> None:
        self._store = store

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Takes spans in."""
        self._store.add(encode_spans(spans).resource_spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Does nothing: there is nothing to close."""
