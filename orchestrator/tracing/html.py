"""One trace as a page that needs no network and nothing installed, to be sent to a colleague."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...services.runtime import telemetry
from ..stage_colours import STAGE_COLOURS
from .critical_path import critical_path, time_shares
from .lanes import LaneUse
from .spans import Span
from .tree import Node, is_step
from .waterfall import Line, singly, waterfall

ORCHESTRATOR_COLOUR = "#7a8190"
# Of what is no stage's own time.
_PLACE_COLOURS = {
    "step wait": "#9db8ee",
    "lane wait": "#c9a8c6",
    "admission wait": "#a4439c",
    "between services": "#b4bac6",
}
_PAGE = Path(__file__).with_name("page.html")
_PLACE = "/*trace*/null"


@dataclass(frozen=True, slots=True)
class PageTrace:
    """What a page shows.

    Attributes:
        title: one line, e.g. the request's ID.
        facts: what else is said at the top, in order.
        root: the request's spans.
        names: what other requests are called, by trace ID.
        uses: what the lanes of its devices did meanwhile.
    """

    title: str
    facts: Sequence[str]
    root: Node
    names: Mapping[str, str]
    uses: Sequence[LaneUse]


def to_html(trace: PageTrace) -> str:
    """Returns the page."""
    # A "</script>" within a text would end the script.
    data = json.dumps(_data(trace), separators=(",", ":")).replace("<", "\\u003c")
    return _PAGE.read_text("utf-8").replace(_PLACE, data)


def _data(trace: PageTrace) -> dict[str, Any]:
    root = trace.root.span
    shares = time_shares(critical_path(trace.root))
    return {
        "title": trace.title,
        "facts": list(trace.facts),
        "end": root.duration_ns / 1e6,
        "shares": [[name, part / 1e6, _colour(name)] for name, part in shares.items()],
        "lines": [_line(line, trace) for line in waterfall(trace.root)],
        "lanes": _lanes(trace),
    }


def _line(line: Line, trace: PageTrace) -> dict[str, Any]:
    several = len(line.spans) > 1
    return {
        "depth": line.depth,
        "label": line.label,
        "service": line.service.replace("_", " "),
        "colour": STAGE_COLOURS.get(line.service, ORCHESTRATOR_COLOUR),
        "times": _times(line.times, trace),
        "critical": _times(line.critical, trace),
        "ms": line.duration_ns / 1e6,
        "failed": line.failed,
        "note": line.note,
        "text": line.note if several else _text(line.spans[0], trace),
        "inner": [_line(one, trace) for one in singly(line)] if several else [],
    }


def _times(times: Iterable[tuple[int, int]], trace: PageTrace) -> list[list[float]]:
    start_ns = trace.root.span.start_ns
    return [[(begin - start_ns) / 1e6, (end - start_ns) / 1e6] for begin, end in times]


def _text(span: Span, trace: PageTrace) -> str:
    """Returns all that is known of a span, a fact a line."""
    lines = [f"{name} {_value(value)}" for name, value in sorted(span.attributes.items())]
    if is_step(span):
        lines += ["", *_members(span, trace)]
    return "\n".join(lines)


def _members(step: Span, trace: PageTrace) -> list[str]:
    """Returns who else had rows in a batch step."""
    members = [
        f"{_name(link.trace_id, trace)}"
        f", step {int(str(link.attributes.get(telemetry.STEP_INDEX, 0))) + 1}"
        f", {link.attributes.get(telemetry.TIER, '')}"
        for link in step.links
    ]
    return ["in this step:", *members]


def _value(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _lanes(trace: PageTrace) -> list[dict[str, Any]]:
    root = trace.root.span
    own = [use for use in trace.uses if root.trace_id in use.trace_ids]
    devices = {use.device for use in own}
    seen = [
        use
        for use in trace.uses
        if use.device in devices and use.end_ns > root.start_ns and use.start_ns < root.end_ns
    ]
    places = sorted({use.place for use in seen})
    return [
        {
            "name": f"{device} lane {lane}",
            "boxes": [_box(use, trace) for use in seen if use.place == (device, lane)],
        }
        for device, lane in places
    ]


def _box(use: LaneUse, trace: PageTrace) -> dict[str, Any]:
    [times] = _times([(use.start_ns, use.end_ns)], trace)
    names = [_name(one, trace) for one in use.trace_ids]
    what = f"{use.stage.replace('_', ' ')}{f', {use.row_count} rows' if use.row_count else ''}"
    return {
        "times": times,
        "colour": STAGE_COLOURS.get(use.stage, ORCHESTRATOR_COLOUR),
        "own": trace.root.span.trace_id in use.trace_ids,
        "runs": use.runs,
        "text": "\n".join([what + ("" if use.runs else ": holds the lane"), *names]),
    }


def _name(trace_id: str, trace: PageTrace) -> str:
    if trace_id == trace.root.span.trace_id:
        return "this request"
    return trace.names.get(trace_id) or f"trace {trace_id}"


def _colour(place: str) -> str:
    colours = {**_PLACE_COLOURS, **STAGE_COLOURS}
    return colours.get(place, colours.get(place.replace(" ", "_"), ORCHESTRATOR_COLOUR))
