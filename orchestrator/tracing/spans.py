"""Spans as this package sees them, read from OTLP's messages."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.resources import SERVICE_NAME

from ...services.runtime.telemetry import process_name

Value: TypeAlias = str | bool | int | float | tuple[Any, ...]

SERVER, CLIENT, INTERNAL = "server", "client", "internal"
_KINDS = {
    trace_pb2.Span.SPAN_KIND_SERVER: SERVER,
    trace_pb2.Span.SPAN_KIND_CLIENT: CLIENT,
}


@dataclass(frozen=True, slots=True)
class SpanLink:
    """One span's word for another, of whatever trace."""

    trace_id: str
    span_id: str
    attributes: Mapping[str, Value] = field(default_factory=dict[str, Value])


@dataclass(frozen=True, slots=True)
class Span:
    """One piece of work.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
        parent_id: the same of its parent; empty for none.
        name: as in `deploy/telemetry/registry.yaml`.
        kind: `server`, `client` or `internal`.
        service: short name of the process's service, e.g. `diffusion`.
        start_ns: wall clock, in nanoseconds since the epoch.
        end_ns: the same.
        failed: whether it ended with an error.
    """

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    service: str
    start_ns: int
    end_ns: int
    failed: bool = False
    attributes: Mapping[str, Value] = field(default_factory=dict[str, Value])
    links: tuple[SpanLink, ...] = ()

    @property
    def duration_ns(self) -> int:
        """How long it took."""
        return self.end_ns - self.start_ns

    @property
    def short_name(self) -> str:
        """Its name without the package and service of a method."""
        return self.name.rpartition("/")[2]

    def text(self, name: str) -> str:
        """Returns an attribute as text; empty where there is none."""
        return str(self.attributes.get(name, ""))


def read_spans(resources: Iterable[trace_pb2.ResourceSpans]) -> Iterator[Span]:
    """Yields the spans of OTLP's messages."""
    for resource in resources:
        service = service_of(resource)
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield to_span(span, service)


def service_of(resource: trace_pb2.ResourceSpans) -> str:
    """Returns the short name of the service that spans come from."""
    for attribute in resource.resource.attributes:
        if attribute.key == SERVICE_NAME:
            return attribute.value.string_value.removeprefix(process_name(""))
    return ""


def to_span(span: trace_pb2.Span, service: str) -> Span:
    """Returns a span from its message."""
    return Span(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        kind=_KINDS.get(span.kind, INTERNAL),
        service=service,
        start_ns=span.start_time_unix_nano,
        # Never before its start, whatever a clock did meanwhile.
        end_ns=max(span.start_time_unix_nano, span.end_time_unix_nano),
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        attributes=to_attributes(span.attributes),
        links=tuple(
            SpanLink(link.trace_id.hex(), link.span_id.hex(), to_attributes(link.attributes))
            for link in span.links
        ),
    )


def to_attributes(pairs: Iterable[KeyValue]) -> dict[str, Value]:
    """Returns attributes from their messages; those of kinds that we never set are left out."""
    values = ((pair.key, _value(pair.value)) for pair in pairs)
    return {key: value for key, value in values if value is not None}


def _value(value: AnyValue) -> Value | None:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        items = (_value(item) for item in value.array_value.values)
        return tuple(item for item in items if item is not None)
    if kind in ("string_value", "bool_value", "int_value", "double_value"):
        return getattr(value, kind)
    return None
