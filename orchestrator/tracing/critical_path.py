"""Where a request's time went: the chain of spans that its end waited for.

Read backwards from the end: whichever child ended last is what the parent waited for, until it
began; before that whichever ended last before then; and what no child covers is the parent's own.
So the parts never overlap, leave nothing out, and add up to the latency.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from ...services.runtime import telemetry
from .spans import CLIENT, SERVER, Span
from .tree import Node

ORCHESTRATOR = "orchestrator"


@dataclass(frozen=True, slots=True)
class PathPart:
    """A time during which the request waited for one span and nothing below it."""

    span: Span
    start_ns: int
    end_ns: int

    @property
    def duration_ns(self) -> int:
        """How long it was."""
        return self.end_ns - self.start_ns


def critical_path(root: Node) -> tuple[PathPart, ...]:
    """Returns the parts in the order of time; together they are the root's span, without gaps.

    What reaches beyond its parent, as when clocks differ, counts as far as it lies within.
    """
    parts: list[PathPart] = []
    waiting = [(root, root.span.start_ns, root.span.end_ns)]
    while waiting:
        node, start_ns, end_ns = waiting.pop()
        at_ns = end_ns
        for child in sorted(node.children, key=lambda one: one.span.end_ns, reverse=True):
            child_end_ns = min(child.span.end_ns, at_ns)
            child_start_ns = max(child.span.start_ns, start_ns)
            if child_start_ns >= child_end_ns:
                continue
            if child_end_ns < at_ns:
                parts.append(PathPart(node.span, child_end_ns, at_ns))
            waiting.append((child, child_start_ns, child_end_ns))
            at_ns = child_start_ns
        if at_ns > start_ns:
            parts.append(PathPart(node.span, start_ns, at_ns))
    return tuple(sorted(parts, key=lambda part: part.start_ns))


def time_shares(parts: Iterable[PathPart]) -> dict[str, int]:
    """Returns how many nanoseconds went where, most first; they add up to the path's."""
    sums: defaultdict[str, int] = defaultdict(int)
    for part in parts:
        sums[place_of(part.span)] += part.duration_ns
    return dict(sorted(sums.items(), key=lambda pair: -pair[1]))


def place_of(span: Span) -> str:
    """Returns what a request waits for while it is in a span and in nothing below it."""
    if span.name in (telemetry.SPAN_ADMISSION_WAIT, telemetry.SPAN_LANE_WAIT):
        return span.name.replace("_", " ")
    if span.name in (telemetry.SPAN_BATCH_STEP, telemetry.SPAN_ENGINE_INFER):
        return span.service.replace("_", " ")
    if span.service == ORCHESTRATOR:
        # From the stage's answer to the orchestrator's having it, and the other way.
        return "between services" if span.kind == CLIENT else ORCHESTRATOR
    if span.kind == SERVER and span.short_name == "Denoise":
        # Its rows are in no step: others' are, or the step loop is between two.
        return "step wait"
    return span.service.replace("_", " ")
