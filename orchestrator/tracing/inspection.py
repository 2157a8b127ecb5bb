"""`TraceInspectionService`: finds traces in the store and converts them.

Reading a trace takes a millisecond or two, so it is done on another thread than the calls.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from sangsang.tracing.v1alpha1 import trace_inspection_service_pb2 as messages
from sangsang.tracing.v1alpha1 import trace_inspection_service_pb2_grpc as services

from ...services.runtime.errors import (
    FieldViolation,
    InvalidRequest,
    TraceNotFound,
    TracesNotKept,
)
from .converters import (
    neighbour_ids,
    to_stats,
    to_summary,
    to_time_shares,
    to_traces_data,
)
from .kept_trace import KeptTrace, RequestFacts
from .store import TraceStore

LAST = "last"
DEFAULT_LIMIT = 20
MAX_LIMIT = 1000


class TraceInspection(services.TraceInspectionServiceServicer):
    """Shows the traces of a store.

    Args:
        store: what is kept; None where traces go elsewhere or nobody makes any.
        lost_span_count: returns how many spans of this process never came in.
    """

    def __init__(self, store: TraceStore | None, lost_span_count: Callable[[], int]) -> None:
        self._kept = store
        self._lost_span_count = lost_span_count

    async def ListTraces(  # noqa: N802 the RPC's name
        self,
        request: messages.ListTracesRequest,
        context: Any,  # noqa: ARG002 gRPC's
    ) -> messages.ListTracesResponse:
        """Returns the last requests, newest first."""
        if not 0 <= request.limit <= MAX_LIMIT:
            raise InvalidRequest([FieldViolation("limit", f"must be from 0 to {MAX_LIMIT}")])

        def wanted(facts: RequestFacts) -> bool:
            return facts.slow >= request.slow and facts.failed >= request.failed

        found = self._store.requests(wanted, request.limit or DEFAULT_LIMIT)
        traces = await asyncio.to_thread(lambda: [*map(self._summary, found)])
        return messages.ListTracesResponse(
            traces=traces, stats=to_stats(self._store.stats, self._lost_span_count())
        )

    async def GetTrace(  # noqa: N802 the RPC's name
        self,
        request: messages.GetTraceRequest,
        context: Any,  # noqa: ARG002 gRPC's
    ) -> messages.GetTraceResponse:
        """Returns one trace."""
        trace_id, facts = self._find(request.id)
        kept = self._store.get(trace_id)
        if kept is None:
            raise TraceNotFound(f"trace {trace_id} has just been dropped")
        return await asyncio.to_thread(self._whole, kept, facts)

    async def StreamTraces(  # noqa: N802 the RPC's name
        self,
        request: messages.StreamTracesRequest,
        context: Any,  # noqa: ARG002 gRPC's
    ) -> AsyncIterator[messages.StreamTracesResponse]:
        """Yields the traces that were under way at some time."""
        end_ns = request.end_time.ToNanoseconds() or time.time_ns()
        for trace_id in self._store.between(request.start_time.ToNanoseconds(), end_ns):
            kept = self._store.get(trace_id)
            if kept is not None:
                yield await asyncio.to_thread(_part, kept)

    @property
    def _store(self) -> TraceStore:
        if self._kept is None:
            raise TracesNotKept(
                "this mesh keeps no traces: they go to the collector of SANGSANG_OTLP_ENDPOINT, "
                "or SANGSANG_TRACING or SANGSANG_TRACE_KEEP_COUNT turns them off"
            )
        return self._kept

    def _find(self, named: str) -> tuple[str, RequestFacts | None]:
        """Returns the trace that an ID names, and the request if it is one's."""
        if named == LAST:
            last = self._store.requests(lambda _: True, 1)
            if not last:
                raise TraceNotFound("no request has ended yet")
            return last[0].trace_id, last[0]
        named = named.lower()
        requests = self._store.requests(lambda facts: facts.request_id.startswith(named), 2)
        found: dict[str, RequestFacts | None] = {one.trace_id: one for one in requests}
        for trace_id in self._store.trace_ids(named):
            found.setdefault(trace_id, self._first_of(trace_id))
        if not named or len(found) > 1:
            text = f"{named!r} is the beginning of several IDs; give more of it"
            raise InvalidRequest([FieldViolation("id", text)])
        if not found:
            raise TraceNotFound(f"no trace or request {named[:80]!r} is kept")
        return next(iter(found.items()))

    def _first_of(self, trace_id: str) -> RequestFacts | None:
        kept = self._store.get(trace_id)
        return kept.requests[0] if kept and kept.requests else None

    def _summary(self, facts: RequestFacts) -> messages.TraceSummary:
        kept = self._store.get(facts.trace_id)
        return to_summary(facts, to_time_shares(kept, facts) if kept else {})

    def _whole(self, kept: KeptTrace, facts: RequestFacts | None) -> messages.GetTraceResponse:
        others = (self._first_of(one) for one, _ in neighbour_ids(kept.spans(), kept.trace_id))
        return messages.GetTraceResponse(
            summary=to_summary(facts, to_time_shares(kept, facts)) if facts else None,
            traces_data=to_traces_data(kept),
            neighbours=[to_summary(other, {}) for other in others if other],
        )


def _part(kept: KeptTrace) -> messages.StreamTracesResponse:
    return messages.StreamTracesResponse(
        summary=to_summary(kept.requests[0], {}) if kept.requests else None,
        traces_data=to_traces_data(kept),
    )
