"""The last traces, in bounded memory.

When room is needed the oldest ordinary trace goes. Slow and failed ones stay for as long as they
take no more than half of the room, and traces whose request is still under way for as long as they
take no more than a quarter: their most telling spans come last.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from opentelemetry.proto.trace.v1 import trace_pb2

from ...services.runtime import telemetry
from .kept_trace import KeptTrace, RequestFacts, begins_request, to_facts
from .slowness import Slowness
from .spans import service_of, to_span
from .trace_limits import TraceLimits


@dataclass(frozen=True, slots=True)
class TraceStoreStats:
    """What the store holds, and what it does not.

    Attributes:
        dropped_trace_count: traces that had to go.
        dropped_span_count: their spans, and those that came when their trace had gone.
    """

    trace_count: int
    size_bytes: int
    dropped_trace_count: int
    dropped_span_count: int


class _Group:
    """Traces that go in the order in which they came.

    Attributes:
        share: of the room, which they keep even if others need some.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.traces: OrderedDict[str, KeptTrace] = OrderedDict()
        self.size_bytes = 0

    def put(self, kept: KeptTrace) -> None:
        self.traces[kept.trace_id] = kept
        self.size_bytes += kept.size_bytes

    def remove(self, trace_id: str) -> KeptTrace:
        kept = self.traces.pop(trace_id)
        self.size_bytes -= kept.size_bytes
        return kept

    def exceeds(self, limits: TraceLimits) -> bool:
        most_count, most_bytes = self.share * limits.max_count, self.share * limits.max_bytes
        return len(self.traces) > most_count or self.size_bytes > most_bytes


class TraceStore:
    """Keeps traces. Safe to use from several threads.

    Args:
        limits: what they may take.
    """

    def __init__(self, limits: TraceLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._underway = _Group(0.25)
        # Slow or failed.
        self._telling = _Group(0.5)
        self._ordinary = _Group(0.0)
        # In the order in which they are asked for room.
        self._groups = (self._underway, self._telling, self._ordinary)
        # IDs of traces that have gone: spans that come late must not begin them anew.
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._slowness = Slowness()
        self._dropped_trace_count = 0
        self._dropped_span_count = 0

    @property
    def stats(self) -> TraceStoreStats:
        """What it holds now."""
        with self._lock:
            return TraceStoreStats(
                self._count, self._size, self._dropped_trace_count, self._dropped_span_count
            )

    def add(self, resources: Iterable[trace_pb2.ResourceSpans]) -> None:
        """Takes spans in."""
        with self._lock:
            for resource in resources:
                service = service_of(resource)
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        self._add(service, span)
            self._make_room()

    def requests(self, wanted: Callable[[RequestFacts], bool], limit: int) -> list[RequestFacts]:
        """Returns the requests that are wanted, newest first."""
        with self._lock:
            every = (one for kept in self._every() for one in kept.requests)
            found = [facts for facts in every if wanted(facts)]
        found.sort(key=lambda facts: facts.end_ns, reverse=True)
        return found[:limit]

    def get(self, trace_id: str) -> KeptTrace | None:
        """Returns a trace as it is now; None if it is not kept."""
        with self._lock:
            group = self._group_of(trace_id)
            return group.traces[trace_id].copy() if group else None

    def trace_ids(self, prefix: str) -> list[str]:
        """Returns the IDs of traces that begin so."""
        with self._lock:
            return [kept.trace_id for kept in self._every() if kept.trace_id.startswith(prefix)]

    def between(self, start_ns: int, end_ns: int) -> list[str]:
        """Returns the IDs of the traces that were under way at some time, oldest first."""
        with self._lock:
            found = [
                (kept.start_ns, kept.trace_id)
                for kept in self._every()
                if kept.start_ns <= end_ns and kept.end_ns >= start_ns
            ]
        return [trace_id for _, trace_id in sorted(found)]

    @property
    def _count(self) -> int:
        return sum(len(group.traces) for group in self._groups)

    @property
    def _size(self) -> int:
        return sum(group.size_bytes for group in self._groups)

    def _every(self) -> Iterable[KeptTrace]:
        return (kept for group in self._groups for kept in group.traces.values())

    def _group_of(self, trace_id: str) -> _Group | None:
        return next((group for group in self._groups if trace_id in group.traces), None)

    def _add(self, service: str, span: trace_pb2.Span) -> None:
        data = span.SerializeToString()
        own = span.trace_id.hex()
        # A batch step belongs to the traces of its members.
        step = span.name == telemetry.SPAN_BATCH_STEP
        for trace_id in {link.trace_id.hex() for link in span.links} if step else (own,):
            group = self._group_of(trace_id)
            if group is None and trace_id in self._gone:
                self._dropped_span_count += 1
                continue
            if group is None:
                group = self._underway
                group.put(KeptTrace(trace_id))
            kept = group.traces[trace_id]
            group.size_bytes += kept.add(
                service, data, span.start_time_unix_nano, span.end_time_unix_nano
            )
        if begins_request(span) and (group := self._group_of(own)) is not None:
            self._note_request(to_facts(to_span(span, service)), group)

    def _note_request(self, facts: RequestFacts, group: _Group) -> None:
        if not (facts.failed or facts.joined):
            slow = self._slowness.note((facts.model_id, facts.tier), facts.duration_ns)
            facts = replace(facts, slow=slow)
        kept = group.remove(facts.trace_id)
        kept.requests.append(facts)
        telling = any(one.failed or one.slow for one in kept.requests)
        (self._telling if telling else self._ordinary).put(kept)

    def _make_room(self) -> None:
        while self._count > self._limits.max_count or self._size > self._limits.max_bytes:
            group = self._to_shrink()
            kept = group.remove(next(iter(group.traces)))
            self._dropped_trace_count += 1
            self._dropped_span_count += len(kept.raw_spans)
            self._gone[kept.trace_id] = None
            while len(self._gone) > 4 * self._limits.max_count:
                self._gone.popitem(last=False)

    def _to_shrink(self) -> _Group:
        """Returns the group whose oldest trace has to go."""
        there = [group for group in self._groups if group.traces]
        return next((group for group in there if group.exceeds(self._limits)), there[0])
