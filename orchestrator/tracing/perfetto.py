"""A trace as a file for Perfetto or Chrome: services as processes, and each device with its lanes.

The format is the "Trace Event Format" in JSON. Spans on one thread must lie within each other or
apart, so those that overlap otherwise get further threads.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from ...services.runtime import telemetry
from .lanes import LaneUse, merged
from .spans import CLIENT, Span
from .waterfall import label_of

Event: TypeAlias = dict[str, Any]

_FIRST_DEVICE = 100
# Of one lane; more than one only where clocks differ.
_MOST_THREADS = 100


def to_perfetto(spans: Iterable[Span], uses: Iterable[LaneUse]) -> str:
    """Returns the file's content.

    Args:
        spans: of one trace or of several, batch steps included.
        uses: what the lanes did meanwhile.
    """
    spans, uses = tuple(spans), tuple(uses)
    start_ns = min((one.start_ns for one in (*spans, *uses)), default=0)
    events = [*_services(spans, start_ns), *_devices(uses, start_ns)]
    return json.dumps({"displayTimeUnit": "ms", "traceEvents": events})


def threads_of(times: Sequence[tuple[int, int]]) -> list[int]:
    """Returns a thread's number for each time, so that those of one thread nest or lie apart.

    Args:
        times: beginning and end, in any order.
    """
    open_ends: list[list[int]] = []
    numbers = [0] * len(times)
    for index in sorted(range(len(times)), key=lambda i: (times[i][0], -times[i][1])):
        start, end = times[index]
        fitting = (n for n, ends in enumerate(open_ends) if _fits(ends, start, end))
        number = next(fitting, len(open_ends))
        if number == len(open_ends):
            open_ends.append([])
        open_ends[number].append(end)
        numbers[index] = number
    return numbers


def _fits(open_ends: list[int], start: int, end: int) -> bool:
    """Returns whether a time lies within what is open on a thread, and forgets what is not."""
    while open_ends and open_ends[-1] <= start:
        open_ends.pop()
    return not open_ends or open_ends[-1] >= end


def _services(spans: Sequence[Span], start_ns: int) -> Iterator[Event]:
    by_service: defaultdict[str, list[Span]] = defaultdict(list)
    for span in spans:
        by_service[span.service].append(span)
    for pid, (service, own) in enumerate(by_service.items(), start=1):
        yield _named("process_name", pid, 0, service or "unknown")
        numbers = threads_of([(span.start_ns, span.end_ns) for span in own])
        for number in sorted(set(numbers)):
            yield _named("thread_name", pid, number + 1, f"{service} {number + 1}")
        for span, number in zip(own, numbers, strict=True):
            at = {"pid": pid, "tid": number + 1}
            yield {**_complete(span.start_ns, span.end_ns, start_ns), **at, **_described(span)}
            yield from _flows(span, at, start_ns)


def _flows(span: Span, at: Event, start_ns: int) -> Iterator[Event]:
    """Yields an arrow's beginning at a call, or its end where the call is answered."""
    arrow = {"cat": "call", "name": "call", "ts": (span.start_ns - start_ns) / 1000, **at}
    if span.kind == CLIENT:
        yield {"ph": "s", "id": span.span_id, **arrow}
    elif telemetry.RPC_METHOD in span.attributes and span.parent_id:
        yield {"ph": "f", "bp": "e", "id": span.parent_id, **arrow}


def _devices(uses: Sequence[LaneUse], start_ns: int) -> Iterator[Event]:
    # Behind the services, of which there are few.
    pids = {
        device: _FIRST_DEVICE + number
        for number, device in enumerate(sorted({u.device for u in uses}))
    }
    for device, pid in pids.items():
        yield _named("process_name", pid, 0, device)
    for device, lane in sorted({use.place for use in uses}):
        events = list(_lane([use for use in uses if use.place == (device, lane)], start_ns))
        numbers = threads_of([(event["ts"], event["ts"] + event["dur"]) for event in events])
        for number in sorted(set(numbers)):
            name = f"lane {lane}" if number == 0 else f"lane {lane}, beside"
            yield _named("thread_name", pids[device], _MOST_THREADS * lane + number + 1, name)
        for event, number in zip(events, numbers, strict=True):
            yield {**event, "pid": pids[device], "tid": _MOST_THREADS * lane + number + 1}


def _lane(uses: Sequence[LaneUse], start_ns: int) -> Iterator[Event]:
    for stage in dict.fromkeys(use.stage for use in uses):
        held = ((u.start_ns, u.end_ns) for u in uses if u.stage == stage and not u.runs)
        for begin_ns, end_ns in merged(held):
            yield {**_complete(begin_ns, end_ns, start_ns), "name": stage, "cat": "held"}
    for use in uses:
        if use.runs:
            arguments = {"rows": use.row_count, "traces": list(use.trace_ids)}
            name = f"{use.stage}: {use.row_count} rows"
            times = _complete(use.start_ns, use.end_ns, start_ns)
            yield {**times, "name": name, "cat": "engine", "args": arguments}


def _complete(begin_ns: int, end_ns: int, start_ns: int) -> Event:
    # Microseconds from the first event: whole ones since the epoch would lose the rest.
    return {"ph": "X", "ts": (begin_ns - start_ns) / 1000, "dur": (end_ns - begin_ns) / 1000}


def _described(span: Span) -> Event:
    arguments = {**span.attributes, "trace_id": span.trace_id, "span_id": span.span_id}
    return {"name": label_of(span), "cat": span.kind, "args": arguments}


def _named(kind: str, pid: int, tid: int, name: str) -> Event:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "ts": 0, "args": {"name": name}}
