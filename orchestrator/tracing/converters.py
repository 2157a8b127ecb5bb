"""Traces to the messages of the inspection service, and back."""

from collections.abc import Iterable, Mapping

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.resources import SERVICE_NAME

from sangsang.tracing.v1alpha1 import trace_inspection_service_pb2 as messages

from ...services.runtime.telemetry import process_name
from .critical_path import critical_path, time_shares
from .kept_trace import KeptTrace, RequestFacts
from .spans import Span, read_spans
from .store import TraceStoreStats
from .tree import build_tree


def to_summary(facts: RequestFacts, shares: Mapping[str, int]) -> messages.TraceSummary:
    """Returns a request in a few words, with where its time went."""
    return messages.TraceSummary(
        trace_id=facts.trace_id,
        root_span_id=facts.span_id,
        request_id=facts.request_id,
        method=facts.method,
        model_id=facts.model_id,
        tier=facts.tier,
        tenant=facts.tenant,
        status=facts.status,
        start_time=_timestamp(facts.start_ns),
        duration=_duration(facts.duration_ns),
        slow=facts.slow,
        time_shares=[
            messages.TimeShare(name=name, duration=_duration(part_ns))
            for name, part_ns in shares.items()
        ],
    )


def to_time_shares(kept: KeptTrace, facts: RequestFacts) -> Mapping[str, int]:
    """Returns where the time of a request went, in nanoseconds. Blocks for a millisecond or two."""
    return time_shares(critical_path(build_tree(kept.spans(), facts.span_id)))


def to_traces_data(kept: KeptTrace) -> bytes:
    """Returns the spans of a trace as a serialized `TracesData`."""
    by_service: dict[str, trace_pb2.ResourceSpans] = {}
    for service, data in kept.raw_spans:
        resource = by_service.get(service)
        if resource is None:
            resource = by_service[service] = _resource_spans(service)
        resource.scope_spans[0].spans.add().MergeFromString(data)
    return trace_pb2.TracesData(resource_spans=by_service.values()).SerializeToString()


def from_traces_data(data: bytes) -> tuple[Span, ...]:
    """Returns the spans of a serialized `TracesData`."""
    return tuple(read_spans(trace_pb2.TracesData.FromString(data).resource_spans))


def to_stats(stats: TraceStoreStats, lost_span_count: int) -> messages.TraceStoreStats:
    """Returns what the store holds, as a message."""
    return messages.TraceStoreStats(
        kept_trace_count=stats.trace_count,
        kept_bytes=stats.size_bytes,
        dropped_trace_count=stats.dropped_trace_count,
        dropped_span_count=stats.dropped_span_count,
        lost_span_count=lost_span_count,
    )


def neighbour_ids(spans: Iterable[Span], trace_id: str) -> set[tuple[str, str]]:
    """Returns trace and span of the other calls that were in a trace's batch steps."""
    links = (link for span in spans for link in span.links if span.trace_id != trace_id)
    return {(link.trace_id, link.span_id) for link in links if link.trace_id != trace_id}


def _resource_spans(service: str) -> trace_pb2.ResourceSpans:
    name = KeyValue(key=SERVICE_NAME, value=AnyValue(string_value=process_name(service)))
    return trace_pb2.ResourceSpans(
        resource=Resource(attributes=[name]), scope_spans=[trace_pb2.ScopeSpans()]
    )


def _timestamp(time_ns: int) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromNanoseconds(time_ns)
    return timestamp


def _duration(time_ns: int) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(time_ns)
    return duration
