"""What `sangsang trace` prints."""

from collections.abc import Iterable, Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sangsang.tracing.v1alpha1 import trace_inspection_service_pb2 as messages

from ..stage_colours import STAGE_COLOURS, STAGE_LABELS
from ..tracing.lanes import LaneUse, lane_columns, lane_shares
from ..tracing.waterfall import Line, bar

_ORCHESTRATOR_COLOUR = "#8a8f99"
# Columns beside the bars, with notes where the terminal has room for them, and without.
_OTHERS_WIDTH = 94
_NARROW_WIDTH = 64
_LANES_WIDTH = 60
_LEAST_BAR = 20
# In percent; what is less is not worth a word.
_LEAST_SHARE = 0.5


def print_list(out: Console, response: messages.ListTracesResponse) -> None:
    """Prints the last requests."""
    table = Table("request", "when", "model", "tier", "status", "latency", "where the time went")
    table.columns[5].justify = "right"
    for one in response.traces:
        name = one.request_id or one.trace_id
        table.add_row(
            name[:13],
            _clock(one.start_time),
            one.model_id,
            one.tier,
            Text(one.status, style="green" if one.status == "OK" else "bold red"),
            Text(f"{_ms(one.duration):,.1f} ms", style="yellow" if one.slow else ""),
            shares_text(one, 3),
        )
    out.print(table)
    stats = response.stats
    kept = f"{stats.kept_trace_count} traces kept, {stats.kept_bytes / 2**20:.1f} MiB"
    gone = f"; {stats.dropped_trace_count} had to go" if stats.dropped_trace_count else ""
    lost = f"; {stats.lost_span_count} spans lost" if stats.lost_span_count else ""
    out.print(f"{kept}{gone}{lost}. See one: sangsang trace show ID", highlight=False)


def print_trace(out: Console, summary: messages.TraceSummary | None, lines: Iterable[Line]) -> None:
    """Prints one trace as a waterfall."""
    lines = tuple(lines)
    start_ns, end_ns = lines[0].start_ns, max(span.end_ns for span in lines[0].spans)
    if summary is not None:
        _print_head(out, summary)
    noted = out.width >= _OTHERS_WIDTH + _LEAST_BAR
    width = max(out.width - (_OTHERS_WIDTH if noted else _NARROW_WIDTH), _LEAST_BAR // 2)
    table = Table("span", "service", "at", "ms", "", pad_edge=False, box=None)
    if noted:
        table.add_column()
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for column in (2, 3):
        table.columns[column].justify = "right"
    for line in lines:
        colour = STAGE_COLOURS.get(line.service, _ORCHESTRATOR_COLOUR)
        table.add_row(
            Text("  " * line.depth + line.label, style="bold red" if line.failed else ""),
            Text(line.service.replace("_", " "), style=colour),
            f"{(line.start_ns - start_ns) / 1e6:.1f}",
            f"{line.duration_ns / 1e6:.1f}",
            _coloured(bar(line, start_ns, end_ns, width), colour),
            *([Text(line.note, style="dim")] if noted else []),
        )
    out.print(table)


def print_lanes(out: Console, uses: Sequence[LaneUse], start_ns: int, end_ns: int) -> None:
    """Prints what the lanes did in some time, a line each."""
    length_ns = end_ns - start_ns
    if not uses:
        out.print("no kept trace has a call in this time; try a longer one with --last")
        return
    width = max(out.width - _LANES_WIDTH, _LEAST_BAR)
    table = Table("lane", "", "share of the time", pad_edge=False, box=None)
    for place, shares in lane_shares(uses, start_ns, end_ns).items():
        own = [use for use in uses if use.place == place]
        words = [
            f"{STAGE_LABELS.get(stage, stage)} {100 * one.held_ns / length_ns:.0f} % held, "
            f"{100 * one.run_ns / length_ns:.0f} % running"
            for stage, one in shares.items()
        ]
        table.add_row(
            f"{place[0]} {place[1]}", _lane_bar(own, start_ns, end_ns, width), "\n".join(words)
        )
    out.print(table)
    legend = Text()
    for stage, label in STAGE_LABELS.items():
        legend.append("█ ", style=STAGE_COLOURS[stage]).append(f"{label}  ")
    out.print(legend)


def _lane_bar(uses: Sequence[LaneUse], start_ns: int, end_ns: int, width: int) -> Text:
    """Returns a lane's bar: in each column the stage that had most of it."""
    text = Text()
    for column in lane_columns(uses, start_ns, end_ns, width):
        sign = " " if column is None else "█" if column.runs else "░"
        text.append(sign, style=STAGE_COLOURS.get(column.stage, "") if column else "")
    return text


def shares_text(summary: messages.TraceSummary, most: int) -> str:
    """Returns where a request's time went, e.g. `diffusion 81 %, lane wait 9 %`."""
    whole = _ms(summary.duration) or 1.0
    shares = [(one.name, 100 * _ms(one.duration) / whole) for one in summary.time_shares[:most]]
    return ", ".join(f"{name} {share:.0f} %" for name, share in shares if share >= _LEAST_SHARE)


def _print_head(out: Console, one: messages.TraceSummary) -> None:
    state = "green" if one.status == "OK" else "bold red"
    out.print(
        Text.assemble(
            (one.request_id or one.method, "bold"),
            f"  {one.model_id} {one.tier} {one.tenant}  ",
            (one.status, state),
            f"  {_ms(one.duration):,.1f} ms" + ("  slow for its tier" if one.slow else ""),
        )
    )
    out.print(f"trace {one.trace_id}, {_clock(one.start_time)}", style="dim", highlight=False)
    out.print(f"the time went: {shares_text(one, 8)}", highlight=False)
    out.print()


def _coloured(signs: str, colour: str) -> Text:
    """Returns a bar: full on the critical path, pale off it."""
    text = Text()
    for sign in signs:
        text.append("█" if sign == "#" else "░" if sign == "-" else " ", style=colour)
    return text


def _ms(duration: object) -> float:
    return duration.ToNanoseconds() / 1e6  # pyright: ignore[reportAttributeAccessIssue] a Duration


def _clock(time: Timestamp) -> str:
    return time.ToDatetime().astimezone().strftime("%H:%M:%S")
