"""One trace in the store: its spans as bytes, and its requests in a few words."""

from dataclasses import dataclass, field

from opentelemetry.proto.trace.v1 import trace_pb2

from ...services.runtime import telemetry
from ...services.runtime.span_status import OK
from .spans import SERVER, Span, to_span

# Methods that begin a request.
_REQUESTS = ("GenerateImages", "StreamGenerateImages")
# What a span takes beside its bytes: two objects and a place in a list, rounded up.
SPAN_OVERHEAD_BYTES = 160
# The same of a trace.
TRACE_OVERHEAD_BYTES = 1024


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What is known of a request once its own span has ended.

    Attributes:
        span_id: of that span.
        status: name of the gRPC status.
        joined: whether it joined a request that was there before.
        slow: whether it took long for its model and tier.
    """

    trace_id: str
    span_id: str
    request_id: str
    method: str
    model_id: str
    tier: str
    tenant: str
    status: str
    start_ns: int
    duration_ns: int
    joined: bool = False
    slow: bool = False

    @property
    def end_ns(self) -> int:
        """When it ended."""
        return self.start_ns + self.duration_ns

    @property
    def failed(self) -> bool:
        """Whether it did not end OK."""
        return self.status != OK


@dataclass(slots=True, eq=False)
class KeptTrace:
    """Spans of one trace, and batch steps that they had rows in.

    Attributes:
        trace_id: 32 hexadecimal digits.
        raw_spans: each span's service and its serialized `opentelemetry.proto.trace.v1.Span`.
        requests: those whose own spans have come.
        start_ns: when the first span began.
        end_ns: when the last one ended.
        size_bytes: what it takes in memory, about.
    """

    trace_id: str
    raw_spans: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    requests: list[RequestFacts] = field(default_factory=list[RequestFacts])
    start_ns: int = 0
    end_ns: int = 0
    size_bytes: int = TRACE_OVERHEAD_BYTES

    def add(self, service: str, data: bytes, start_ns: int, end_ns: int) -> int:
        """Adds a span, and returns the bytes that it takes."""
        self.raw_spans.append((service, data))
        self.start_ns = min(self.start_ns or start_ns, start_ns)
        self.end_ns = max(self.end_ns, end_ns)
        size_bytes = len(data) + SPAN_OVERHEAD_BYTES
        self.size_bytes += size_bytes
        return size_bytes

    def copy(self) -> "KeptTrace":
        """Returns a trace that stays as this one is now."""
        return KeptTrace(
            self.trace_id,
            list(self.raw_spans),
            list(self.requests),
            self.start_ns,
            self.end_ns,
            self.size_bytes,
        )

    def spans(self) -> tuple[Span, ...]:
        """Returns its spans. Takes about a millisecond for a picture's."""
        return tuple(
            to_span(trace_pb2.Span.FromString(data), name) for name, data in self.raw_spans
        )


def begins_request(span: trace_pb2.Span) -> bool:
    """Returns whether a span is a request's own."""
    return (
        span.kind == trace_pb2.Span.SPAN_KIND_SERVER and span.name.rpartition("/")[2] in _REQUESTS
    )


def to_facts(span: Span) -> RequestFacts:
    """Returns what a request's own span says of it."""
    assert span.kind == SERVER
    return RequestFacts(
        trace_id=span.trace_id,
        span_id=span.span_id,
        request_id=span.text(telemetry.REQUEST_ID),
        method=span.short_name,
        model_id=span.text(telemetry.MODEL_ID),
        tier=span.text(telemetry.TIER),
        tenant=span.text(telemetry.TENANT),
        status=span.text(telemetry.RPC_STATUS),
        start_ns=span.start_ns,
        duration_ns=span.duration_ns,
        joined=bool(span.attributes.get(telemetry.JOINED, False)),
    )
