"""Traces made by hand: spans of a picture's request, as ours and as OTLP's messages."""

from collections.abc import Iterable, Mapping

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from sangsang.orchestrator.tracing.spans import CLIENT, INTERNAL, SERVER, Span, SpanLink

MS = 1_000_000
# Any day: nothing may depend on which.
EPOCH_NS = 1_790_000_000_000 * MS
_KINDS = {SERVER: 2, CLIENT: 3, INTERNAL: 1}


def span(
    span_id: str,
    start_ms: float,
    end_ms: float,
    *,
    parent: str = "",
    name: str = "work",
    kind: str = INTERNAL,
    service: str = "orchestrator",
    trace: str = "1",
    failed: bool = False,
    links: Iterable[tuple[str, str, int]] = (),
    attributes: Mapping[str, object] | None = None,
) -> Span:
    """A span; IDs are filled up to their length, times are since `EPOCH_NS`.

    Args:
        links: trace, span and step index of each member, for a batch step.
    """
    return Span(
        trace_id=trace_id(trace),
        span_id=span_id_of(span_id),
        parent_id=span_id_of(parent) if parent else "",
        name=name,
        kind=kind,
        service=service,
        start_ns=EPOCH_NS + round(start_ms * MS),
        end_ns=EPOCH_NS + round(end_ms * MS),
        failed=failed,
        attributes=dict(attributes or {}),
        links=tuple(
            SpanLink(trace_id(one), span_id_of(member), {"sangsang.batch.step_index": index})
            for one, member, index in links
        ),
    )


def trace_id(text: str) -> str:
    return text.encode().hex().rjust(32, "0")


def span_id_of(text: str) -> str:
    return text.encode().hex().rjust(16, "0")


def request_spans(
    trace: str = "1",
    *,
    at_ms: float = 0,
    length_ms: float = 100,
    status: str = "OK",
    tier: str = "free",
    device: str = "device0",
) -> list[Span]:
    """The spans of one request of one picture, its batch steps left out.

    Its Denoise span is `d` + the trace's name, from 20 to 80 % of its length.
    """

    def part(span_id: str, start: float, end: float, **fields: object) -> Span:
        begin, stop = (at_ms + share * length_ms for share in (start, end))
        return span(span_id + trace, begin, stop, trace=trace, **fields)

    failed = status != "OK"
    root = {
        "rpc.response.status_code": status,
        "sangsang.request.id": f"{trace.rjust(8, '0')}-8f5e-4a53-9f0f-6c9d4d1c7f0a",
        "sangsang.model.id": "pocket",
        "sangsang.tier": tier,
        "sangsang.tenant": "shop-1",
    }
    call = {"sangsang.device": device, "server.address": "127.0.0.1"}
    text = {**call, "sangsang.lane": 1, "sangsang.stage": "text_encoding"}
    denoise = {**call, "sangsang.lane": 0, "sangsang.stage": "diffusion"}
    services = "sangsang.stages.v1alpha1"
    text_name = f"{services}.TextEncodingService/EncodeText"
    denoise_name = f"{services}.DiffusionService/Denoise"
    stage = {"service": "diffusion", "kind": SERVER, "parent": f"D{trace}"}
    encoding = {"service": "text_encoding", "kind": SERVER, "parent": f"T{trace}"}
    method = "sangsang.imaging.v1.ImageGenerationService/GenerateImages"
    return [
        part("r", 0, 1, name=method, kind=SERVER, attributes=root, failed=failed),
        part("p", 0.01, 0.99, name="generate_picture", parent=f"r{trace}", failed=failed),
        part("w", 0.01, 0.05, name="admission_wait", parent=f"p{trace}"),
        part("T", 0.05, 0.15, name=text_name, kind=CLIENT, parent=f"p{trace}", attributes=text),
        part("t", 0.06, 0.14, name=text_name, **encoding),
        part("e", 0.07, 0.13, name="engine_infer", service="text_encoding", parent=f"t{trace}"),
        part("l", 0.15, 0.19, name="lane_wait", parent=f"p{trace}"),
        part(
            "D", 0.19, 0.82, name=denoise_name, kind=CLIENT, parent=f"p{trace}", attributes=denoise
        ),
        part("d", 0.2, 0.8, name=denoise_name, **stage),
    ]


def step(
    span_id: str, start_ms: float, end_ms: float, members: Mapping[str, int], rows: int = 0
) -> Span:
    """A batch step of the Denoise calls of some traces, each with the number of its step."""
    attributes = {"sangsang.batch.row_count": rows or len(members)}
    return span(
        span_id,
        start_ms,
        end_ms,
        name="batch_step",
        service="diffusion",
        trace=f"step-{span_id}",
        links=[(trace, f"d{trace}", index) for trace, index in members.items()],
        attributes=attributes,
    )


def messages(spans: Iterable[Span]) -> list[trace_pb2.ResourceSpans]:
    """The same as OTLP sends it."""
    return [
        trace_pb2.ResourceSpans(
            resource=Resource(
                attributes=_pairs({"service.name": f"sangsang-{one.service}"}),
            ),
            scope_spans=[trace_pb2.ScopeSpans(spans=[_message(one)])],
        )
        for one in spans
    ]


def _message(one: Span) -> trace_pb2.Span:
    return trace_pb2.Span(
        trace_id=bytes.fromhex(one.trace_id),
        span_id=bytes.fromhex(one.span_id),
        parent_span_id=bytes.fromhex(one.parent_id),
        name=one.name,
        kind=_KINDS[one.kind],
        start_time_unix_nano=one.start_ns,
        end_time_unix_nano=one.end_ns,
        attributes=_pairs(one.attributes),
        links=[
            trace_pb2.Span.Link(
                trace_id=bytes.fromhex(link.trace_id),
                span_id=bytes.fromhex(link.span_id),
                attributes=_pairs(link.attributes),
            )
            for link in one.links
        ],
        status=trace_pb2.Status(code=2 if one.failed else 0),
    )


def _pairs(attributes: Mapping[str, object]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in attributes.items()]


def _value(value: object) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    return (
        AnyValue(double_value=value) if isinstance(value, float) else AnyValue(string_value=value)
    )
