"""A request's spans as lines, one below the other, for whoever draws them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...services.runtime import telemetry
from .critical_path import ORCHESTRATOR, PathPart, critical_path
from .spans import CLIENT, SERVER, Span
from .tree import Node, is_step

Times = tuple[tuple[int, int], ...]

# What is worth a word beside a line, and the word.
_NOTES = {
    telemetry.BATCH_ROWS: "{:.3g} rows",
    telemetry.ENGINE_MODULE: "{}",
    telemetry.CACHE_HIT: "cache hit",
    telemetry.JOINED: "joined",
    telemetry.QUEUE_SECONDS: "queue {:.1f} ms",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a waterfall.

    Attributes:
        depth: how far below the root.
        label: what it is.
        service: whose process it was in.
        spans: usually one; the batch steps of a call are one line unless they are asked for singly.
        critical: the times at which the request waited for it and for nothing below it.
        note: what else is worth knowing.
    """

    depth: int
    label: str
    service: str
    spans: tuple[Span, ...]
    critical: Times
    note: str

    @property
    def times(self) -> Times:
        """When it ran."""
        return tuple((span.start_ns, span.end_ns) for span in self.spans)

    @property
    def start_ns(self) -> int:
        """When it began."""
        return min(span.start_ns for span in self.spans)

    @property
    def duration_ns(self) -> int:
        """How long it ran, pauses left out."""
        return sum(span.duration_ns for span in self.spans)

    @property
    def failed(self) -> bool:
        """Whether it did not end OK."""
        return any(span.failed for span in self.spans)


def waterfall(root: Node, *, every_step: bool = False) -> tuple[Line, ...]:
    """Returns the lines of a request, parents before what is done within them.

    Args:
        root: the request.
        every_step: whether each batch step has a line of its own.
    """
    path = critical_path(root)
    lines: list[Line] = []
    for depth, node in root.walk():
        if every_step or not is_step(node.span):
            lines.append(_line(depth, (node.span,), path))
        steps = tuple(child.span for child in node.children if is_step(child.span))
        if steps and not every_step:
            lines.append(_line(depth + 1, steps, path))
    return tuple(lines)


def singly(line: Line) -> tuple[Line, ...]:
    """Returns a line for each span of a line of several."""
    return tuple(
        Line(
            line.depth + 1,
            label_of(span),
            line.service,
            (span,),
            # Steps of one call never overlap, so what lies within one is its own.
            tuple(t for t in line.critical if span.start_ns <= t[0] and t[1] <= span.end_ns),
            note_of(span),
        )
        for span in line.spans
    )


def bar(line: Line, start_ns: int, end_ns: int, width: int) -> str:
    """Returns a line's bar, a character a column: `#` on the critical path, `-` off it, or blank.

    What is shorter than a column is one column, so that nothing is invisible.
    """
    columns = [" "] * width
    for sign, times in (("-", line.times), ("#", line.critical)):
        for begin_ns, stop_ns in times:
            first = _column(begin_ns, start_ns, end_ns, width)
            # The column in which it stops is its own only if it reaches into it.
            last = _column(max(stop_ns - 1, begin_ns), start_ns, end_ns, width)
            columns[first : last + 1] = sign * (last + 1 - first)
    return "".join(columns)


def label_of(span: Span) -> str:
    """Returns what a span is called in a drawing."""
    if span.kind == CLIENT:
        return f"call {span.short_name}"
    return span.short_name if span.kind == SERVER else span.name.replace("_", " ")


def note_of(span: Span) -> str:
    """Returns what is worth knowing of a span, in a few words."""
    words = [
        word.format(value * 1000 if name == telemetry.QUEUE_SECONDS else value)  # pyright: ignore[reportOperatorIssue] seconds
        for name, word in _NOTES.items()
        if (value := span.attributes.get(name))
    ]
    if telemetry.LANE in span.attributes:
        place = f"{span.text(telemetry.DEVICE)} lane {span.text(telemetry.LANE)}"
        words.insert(0, place)
    if span.failed:
        words.insert(0, span.text(telemetry.ERROR_TYPE))
    return ", ".join(words)


def _line(depth: int, spans: Sequence[Span], path: Iterable[PathPart]) -> Line:
    one, ids = spans[0], {span.span_id for span in spans}
    critical = tuple((p.start_ns, p.end_ns) for p in path if p.span.span_id in ids)
    label, note = label_of(one), note_of(one)
    if len(spans) > 1:
        label = f"{len(spans)} batch steps"
        rows = sum(float(span.text(telemetry.BATCH_ROWS) or 0) for span in spans)
        note = f"{rows / len(spans):.3g} rows on average"
    return Line(depth, label, one.service or ORCHESTRATOR, tuple(spans), critical, note)


def _column(time_ns: int, start_ns: int, end_ns: int, width: int) -> int:
    length = max(end_ns - start_ns, 1)
    return min(max((time_ns - start_ns) * width // length, 0), width - 1)
