"""What `sangsang trace` asks the orchestrator."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import typer

from sangsang.tracing.v1alpha1 import trace_inspection_service_pb2 as messages
from sangsang.tracing.v1alpha1 import trace_inspection_service_pb2_grpc as services

from ..tracing.converters import from_traces_data
from ..tracing.html import PageTrace
from ..tracing.lanes import LaneUse
from ..tracing.spans import Span
from ..tracing.tree import Node, build_tree, roots
from .console import describe, fail

# One trace of a request of many pictures; the store's own limit is the real one.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class ShownTrace:
    """A trace that was asked for.

    Attributes:
        summary: its request; None where none began it.
        root: its spans as a tree.
        spans: all of them.
        neighbours: the other requests of its batch steps, by trace ID.
    """

    summary: messages.TraceSummary | None
    root: Node
    spans: tuple[Span, ...]
    neighbours: dict[str, messages.TraceSummary]


class TraceClient:
    """Asks one orchestrator.

    Raises:
        typer.Exit: from each method: the orchestrator cannot be reached or refuses. Why is printed.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def last_requests(self, *, limit: int, slow: bool, failed: bool) -> messages.ListTracesResponse:
        """Returns the last requests, newest first."""
        request = messages.ListTracesRequest(limit=limit, slow=slow, failed=failed)
        with self._stub() as stub:
            return stub.ListTraces(request, timeout=TIMEOUT_S)

    def get(self, name: str) -> ShownTrace:
        """Returns one trace."""
        with self._stub() as stub:
            response = stub.GetTrace(messages.GetTraceRequest(id=name), timeout=TIMEOUT_S)
        spans = from_traces_data(response.traces_data)
        summary = response.summary if response.HasField("summary") else None
        tops = roots(spans)
        if not tops:
            raise typer.Exit(fail("only batch steps of this trace have come so far; ask again"))
        root_id = summary.root_span_id if summary else tops[0].span_id
        neighbours = {one.trace_id: one for one in response.neighbours}
        return ShownTrace(summary, build_tree(spans, root_id), spans, neighbours)

    def between(
        self, start_ns: int, end_ns: int | None = None
    ) -> tuple[list[Span], dict[str, messages.TraceSummary]]:
        """Returns the spans of the traces that were under way at some time, and their requests."""
        request = messages.StreamTracesRequest()
        request.start_time.FromNanoseconds(start_ns)
        request.end_time.FromNanoseconds(end_ns or time.time_ns())
        spans: dict[str, Span] = {}
        summaries: dict[str, messages.TraceSummary] = {}
        with self._stub() as stub:
            for response in stub.StreamTraces(request, timeout=TIMEOUT_S):
                # A batch step comes with each of its members.
                spans |= {span.span_id: span for span in from_traces_data(response.traces_data)}
                if response.HasField("summary"):
                    summaries[response.summary.trace_id] = response.summary
        return list(spans.values()), summaries

    @contextmanager
    def _stub(self) -> Iterator[services.TraceInspectionServiceStub]:
        limits = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
        with grpc.insecure_channel(self._address, options=limits) as channel:
            try:
                yield services.TraceInspectionServiceStub(channel)
            except grpc.RpcError as error:
                raise typer.Exit(fail(describe(error, self._address))) from None


def page_trace(
    found: ShownTrace, others: Mapping[str, messages.TraceSummary], uses: Sequence[LaneUse]
) -> PageTrace:
    """Returns what a page shows of a trace and of what ran beside it."""
    one = found.summary
    facts = [f"trace {found.root.span.trace_id}"]
    title = found.root.span.name
    if one is not None:
        title = f"request {one.request_id}" if one.request_id else one.method
        length = f"{one.duration.ToNanoseconds() / 1e6:,.1f} ms"
        came = one.start_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S UTC")
        facts = [one.model_id, one.tier, one.tenant, one.status, length, came, *facts]
    names = {
        trace_id: f"request {other.request_id[:13]}"
        for trace_id, other in {**found.neighbours, **others}.items()
    }
    return PageTrace(title, [*filter(None, facts)], found.root, names, uses)
