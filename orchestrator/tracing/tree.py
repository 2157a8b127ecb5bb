"""The spans of one request as a tree, batch steps included.

A batch step is a trace of its own, linked to the calls whose rows it ran; here it stands below the
call that it is linked to, as if it were its child.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ...services.runtime import telemetry
from .spans import Span


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A span and what is done within it.

    Attributes:
        children: in the order in which they began.
    """

    span: Span
    children: tuple["Node", ...] = field(default=())

    def walk(self, depth: int = 0) -> Iterator[tuple[int, "Node"]]:
        """Yields this node and all below, each with its depth, parents first."""
        waiting: list[tuple[int, Node]] = [(depth, self)]
        while waiting:
            at, node = waiting.pop()
            yield at, node
            waiting.extend((at + 1, child) for child in reversed(node.children))


def build_tree(spans: Iterable[Span], root_id: str) -> Node:
    """Returns the tree below a span.

    Args:
        spans: of the trace, and the batch steps that are linked to it.
        root_id: ID of the span at the top.

    Raises:
        KeyError: it is not among the spans.
    """
    by_id: dict[str, Span] = {}
    below: defaultdict[str, list[Span]] = defaultdict(list)
    for span in spans:
        if span.span_id in by_id:
            # Exported twice: a collector that was slow to answer is asked again.
            continue
        by_id[span.span_id] = span
        for parent_id in _parents(span):
            below[parent_id].append(span)
    return _node(by_id[root_id], below, {root_id})


def roots(spans: Iterable[Span]) -> list[Span]:
    """Returns the spans whose parents are not there, in the order in which they began."""
    every = [span for span in spans if not is_step(span)]
    known = {span.span_id for span in every}
    tops = [span for span in every if span.parent_id not in known]
    return sorted(tops, key=lambda span: span.start_ns)


def is_step(span: Span) -> bool:
    """Returns whether a span is a batch step's."""
    return span.name == telemetry.SPAN_BATCH_STEP


def _parents(span: Span) -> Iterable[str]:
    return {link.span_id for link in span.links} if is_step(span) else (span.parent_id,)


def _node(span: Span, below: dict[str, list[Span]], seen: set[str]) -> Node:
    """Returns a span's node. Not recursive: who sends spans decides how deep they go."""
    order: list[tuple[Span, list[Span]]] = []
    waiting = [span]
    while waiting:
        one = waiting.pop()
        found = sorted(below.get(one.span_id, ()), key=lambda child: (child.start_ns, child.end_ns))
        children = [child for child in found if child.span_id not in seen]
        # A span has one place, even if what was sent has it go round in a circle.
        seen.update(child.span_id for child in children)
        order.append((one, children))
        waiting.extend(children)
    nodes: dict[str, Node] = {}
    for one, children in reversed(order):
        nodes[one.span_id] = Node(one, tuple(nodes[child.span_id] for child in children))
    return nodes[span.span_id]
