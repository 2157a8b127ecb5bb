"""What a request waited for. No sockets."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_traces import request_spans, span, span_id_of, step

from sangsang.orchestrator.tracing.critical_path import critical_path, time_shares
from sangsang.orchestrator.tracing.spans import Span
from sangsang.orchestrator.tracing.tree import build_tree


def path_of(spans: list[Span], root: str) -> list[tuple[str, float]]:
    """Span and milliseconds of each part."""
    parts = critical_path(build_tree(spans, span_id_of(root)))
    names = {one.span_id: bytes.fromhex(one.span_id).decode().strip("\0") for one in spans}
    return [(names[part.span.span_id], part.duration_ns / 1e6) for part in parts]


def test_a_span_alone_is_its_own_path():
    assert path_of([span("a", 0, 10)], "a") == [("a", 10)]


def test_what_no_child_covers_is_the_parents():
    spans = [span("a", 0, 10), span("b", 2, 5, parent="a"), span("c", 6, 9, parent="a")]
    assert path_of(spans, "a") == [("a", 2), ("b", 3), ("a", 1), ("c", 3), ("a", 1)]


def test_of_children_at_once_the_one_that_ended_last_counts():
    spans = [span("a", 0, 10), span("b", 0, 10, parent="a"), span("c", 3, 8, parent="a")]
    assert path_of(spans, "a") == [("b", 10)]


def test_before_the_last_one_began_whichever_ended_last_counts():
    spans = [span("a", 0, 10), span("b", 0, 7, parent="a"), span("c", 4, 10, parent="a")]
    assert path_of(spans, "a") == [("b", 4), ("c", 6)]


def test_a_child_whose_clock_is_ahead_counts_as_far_as_it_lies_within():
    spans = [span("a", 0, 10), span("b", 8, 14, parent="a"), span("c", 20, 30, parent="a")]
    assert path_of(spans, "a") == [("a", 8), ("b", 2)]


def test_batch_steps_are_below_the_call_they_are_linked_to():
    spans = [*request_spans("1"), step("s", 30, 40, {"1": 0, "2": 3}), step("u", 45, 79, {"1": 1})]
    shares = time_shares(critical_path(build_tree(spans, span_id_of("r1"))))
    assert shares["diffusion"] == 44_000_000
    # Denoise is from 20 to 80.
    assert shares["step wait"] == 16_000_000
    assert shares["text encoding"] == 8_000_000
    assert shares["lane wait"] == 4_000_000
    assert shares["admission wait"] == 4_000_000
    assert sum(shares.values()) == 100_000_000
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


def test_a_span_that_came_twice_counts_once():
    spans = [span("a", 0, 10), span("b", 2, 5, parent="a"), span("b", 2, 5, parent="a")]
    assert path_of(spans, "a") == [("a", 2), ("b", 3), ("a", 5)]


def test_spans_that_go_in_a_circle_or_very_deep_are_read_all_the_same():
    circle = [span("a", 0, 10, parent="b"), span("b", 1, 9, parent="a")]
    assert path_of(circle, "a") == [("a", 1), ("b", 8), ("a", 1)]
    deep = [span(str(i), 0, 10, parent=str(i - 1) if i else "") for i in range(5000)]
    assert path_of(deep, "0") == [("4999", 10)]


def test_a_root_that_is_not_there_is_an_error():
    with pytest.raises(KeyError):
        build_tree([span("a", 0, 10)], span_id_of("b"))


@st.composite
def trees(draw) -> list[Span]:
    """Spans below one root, wherever they lie in time."""
    count = draw(st.integers(1, 30))
    spans = [span("0", 0, draw(st.integers(0, 100)))]
    for number in range(1, count):
        parent = str(draw(st.integers(0, number - 1)))
        start = draw(st.integers(-20, 120))
        spans.append(span(str(number), start, start + draw(st.integers(0, 80)), parent=parent))
    return draw(st.permutations(spans))


@settings(deadline=None)
@given(trees())
def test_the_parts_follow_each_other_and_add_up_to_the_latency(spans):
    root = build_tree(spans, span_id_of("0"))
    parts = critical_path(root)
    assert sum(part.duration_ns for part in parts) == root.span.duration_ns
    ends = [root.span.start_ns, *(part.end_ns for part in parts)]
    assert [part.start_ns for part in parts] == ends[:-1]
    assert ends[-1] == root.span.end_ns
    for part in parts:
        assert part.span.start_ns <= part.start_ns < part.end_ns <= part.span.end_ns
    assert sum(time_shares(parts).values()) == root.span.duration_ns


@settings(deadline=None)
@given(trees())
def test_nobody_is_waited_for_while_a_child_of_it_runs_to_its_end(spans):
    """A part belongs to the deepest span: none of its children ends within it."""
    root = build_tree(spans, span_id_of("0"))
    children = {node.span.span_id: [c.span for c in node.children] for _, node in root.walk()}
    for part in critical_path(root):
        for child in children[part.span.span_id]:
            begin, end = max(child.start_ns, part.start_ns), min(child.end_ns, part.end_ns)
            assert begin >= end, "the time that a child covers is the child's"
