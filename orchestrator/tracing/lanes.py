"""What the lanes of the devices did: who held each, and when an engine ran in it.

Only the calls of the orchestrator know their lane. An engine's run is in the lane of the call that
it was done for; a batch step, which is done for many, in that of any of its members: rows that
share a step are on one device.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...services.runtime import telemetry
from .spans import Span
from .tree import is_step

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class LaneUse:
    """One call that held a lane, or one run of an engine in it.

    Attributes:
        runs: whether an engine ran; else the lane was held, for whatever the call did.
        trace_ids: whose it was; several for a batch step.
        row_count: rows of an engine's run, 0 if it was none.
    """

    device: str
    lane: int
    stage: str
    start_ns: int
    end_ns: int
    runs: bool
    trace_ids: tuple[str, ...]
    row_count: int = 0

    @property
    def place(self) -> Place:
        """Which lane."""
        return self.device, self.lane


@dataclass(frozen=True, slots=True)
class LaneShare:
    """How long a stage held a lane, and how long its engine ran there, in nanoseconds."""

    held_ns: int
    run_ns: int


def lane_uses(spans: Iterable[Span]) -> tuple[LaneUse, ...]:
    """Returns the uses of all lanes in the order in which they began."""
    every = tuple(spans)
    by_id = {span.span_id: span for span in every}
    uses: list[LaneUse] = []
    for span in every:
        if telemetry.SERVER_ADDRESS in span.attributes and telemetry.LANE in span.attributes:
            uses.append(_use(span, span, runs=False))
        elif is_step(span):
            calls = (_call_of(link.span_id, by_id) for link in span.links)
            call = next((call for call in calls if call is not None), None)
            if call is not None:
                uses.append(_use(span, call, runs=True))
        elif span.name == telemetry.SPAN_ENGINE_INFER:
            call = _call_of(span.parent_id, by_id)
            if call is not None:
                uses.append(_use(span, call, runs=True))
    return tuple(sorted(uses, key=lambda use: (use.start_ns, use.runs)))


def lane_shares(
    uses: Iterable[LaneUse], start_ns: int, end_ns: int
) -> dict[Place, dict[str, LaneShare]]:
    """Returns how much of a time each stage had of each lane."""
    held: defaultdict[tuple[Place, str], list[tuple[int, int]]] = defaultdict(list)
    ran: defaultdict[tuple[Place, str], list[tuple[int, int]]] = defaultdict(list)
    for use in uses:
        times = max(use.start_ns, start_ns), min(use.end_ns, end_ns)
        (ran if use.runs else held)[use.place, use.stage].append(times)
    shares: defaultdict[Place, dict[str, LaneShare]] = defaultdict(dict)
    for place, stage in sorted({*held, *ran}):
        key = place, stage
        shares[place][stage] = LaneShare(covered_ns(held[key]), covered_ns(ran[key]))
    return dict(shares)


def lane_columns(
    uses: Iterable[LaneUse], start_ns: int, end_ns: int, width: int
) -> list[LaneUse | None]:
    """Returns for each of `width` equal parts of a time the use of a lane that had most of it.

    A run of an engine counts twice, for it always lies within a call that holds the lane.
    """
    most: list[tuple[float, LaneUse | None]] = [(0.0, None)] * width
    length_ns = (end_ns - start_ns) / width
    for use in sorted(uses, key=lambda use: use.runs):
        first = max(int((use.start_ns - start_ns) / length_ns), 0)
        last = min(int((use.end_ns - start_ns) / length_ns), width - 1)
        for column in range(first, last + 1):
            begin_ns = start_ns + column * length_ns
            covered = min(use.end_ns, begin_ns + length_ns) - max(use.start_ns, begin_ns)
            weight = 2 * covered if use.runs else covered
            if weight > most[column][0]:
                most[column] = weight, use
    return [use for _, use in most]


def covered_ns(times: Iterable[tuple[int, int]]) -> int:
    """Returns how long at least one of some times lasted."""
    return sum(end - start for start, end in merged(times))


def merged(times: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Returns the same time without overlaps, in order."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(times):
        if end <= start:
            continue
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def _call_of(span_id: str, by_id: Mapping[str, Span]) -> Span | None:
    """Returns the orchestrator's call that a stage's span answers."""
    server = by_id.get(span_id)
    call = by_id.get(server.parent_id) if server else None
    return call if call is not None and telemetry.LANE in call.attributes else None


def _use(span: Span, call: Span, *, runs: bool) -> LaneUse:
    trace_ids = tuple(dict.fromkeys(link.trace_id for link in span.links))
    return LaneUse(
        device=call.text(telemetry.DEVICE),
        lane=int(call.text(telemetry.LANE) or 0),
        stage=call.text(telemetry.STAGE),
        start_ns=span.start_ns,
        end_ns=span.end_ns,
        runs=runs,
        trace_ids=trace_ids if is_step(span) else (span.trace_id,),
        row_count=int(float(span.text(telemetry.BATCH_ROWS) or 0)) if runs else 0,
    )
