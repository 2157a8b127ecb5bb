"""What the store of traces keeps, and in what room. No sockets."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_traces import messages, request_spans, span, step, trace_id

from sangsang.orchestrator.tracing.slowness import LEAST_KNOWN
from sangsang.orchestrator.tracing.spans import Span
from sangsang.orchestrator.tracing.store import TraceStore
from sangsang.orchestrator.tracing.trace_limits import TraceLimits

ROOMY = 1 << 30


def store(count: int = 1000, size: int = ROOMY) -> TraceStore:
    return TraceStore(TraceLimits(count, size))


def kept(traces: TraceStore) -> list[str]:
    """Trace IDs of the requests that are kept, oldest first."""
    return [facts.trace_id for facts in reversed(traces.requests(lambda _: True, 10_000))]


def same(found: Iterable[Span], expected: Iterable[Span]) -> bool:
    """Whether both are the same spans, in whatever order."""
    first, second = (sorted(spans, key=lambda one: one.span_id) for spans in (found, expected))
    return first == second


def test_a_request_is_kept_with_all_its_spans():
    traces, spans = store(), request_spans("1")
    # A stage's spans come before the orchestrator's, or after: nobody waits for anybody.
    traces.add(messages(reversed(spans)))
    [facts] = traces.requests(lambda _: True, 10)
    assert (facts.model_id, facts.tier, facts.tenant, facts.status) == (
        "pocket",
        "free",
        "shop-1",
        "OK",
    )
    assert facts.method == "GenerateImages"
    assert facts.duration_ns == 100_000_000
    assert same(traces.get(facts.trace_id).spans(), spans)


def test_a_batch_step_is_in_the_trace_of_each_member():
    traces = store()
    traces.add(messages([*request_spans("1"), *request_spans("2"), *request_spans("3")]))
    both = step("s", 30, 40, {"1": 0, "2": 4})
    traces.add(messages([both]))
    assert both in traces.get(trace_id("1")).spans()
    assert both in traces.get(trace_id("2")).spans()
    assert both not in traces.get(trace_id("3")).spans()
    assert traces.get(both.trace_id) is None, "it is no trace of its own"


def test_the_oldest_go_first_and_are_counted():
    traces = store(count=3)
    for number in range(5):
        traces.add(messages(request_spans(str(number), at_ms=1000 * number)))
    assert kept(traces) == [trace_id("2"), trace_id("3"), trace_id("4")]
    assert traces.stats.dropped_trace_count == 2
    assert traces.stats.dropped_span_count == 2 * len(request_spans())


def test_bytes_are_bounded_too():
    traces = store()
    traces.add(messages(request_spans("0")))
    one = traces.stats.size_bytes
    small = store(size=round(3.5 * one))
    for number in range(9):
        small.add(messages(request_spans(str(number), at_ms=1000 * number)))
        assert small.stats.size_bytes <= 3.5 * one
    assert kept(small) == [trace_id("6"), trace_id("7"), trace_id("8")]
    raw = sum(len(data) for _, data in small.get(trace_id("8")).raw_spans)
    assert raw < small.stats.size_bytes / 3, "what Python adds is counted"


def test_failed_requests_outlast_the_others():
    traces = store(count=10)
    traces.add(messages(request_spans("bad", status="UNAVAILABLE")))
    for number in range(50):
        traces.add(messages(request_spans(str(number), at_ms=1000 * number)))
    assert trace_id("bad") in kept(traces)
    [failed] = traces.requests(lambda facts: facts.failed, 10)
    assert failed.status == "UNAVAILABLE"


def test_failed_requests_leave_half_of_the_room_to_others():
    traces = store(count=10)
    for number in range(5):
        traces.add(messages(request_spans(f"good{number}", at_ms=number)))
    for number in range(50):
        one = request_spans(f"bad{number}", at_ms=1000 + number, status="INTERNAL")
        traces.add(messages(one))
    assert kept(traces)[:5] == [trace_id(f"good{number}") for number in range(5)]


def test_slow_requests_are_told_by_others_of_their_tier():
    traces = store(count=40)
    for number in range(LEAST_KNOWN):
        traces.add(messages(request_spans(f"f{number}", at_ms=number, length_ms=100)))
        one = request_spans(f"p{number}", at_ms=number, length_ms=2000, tier="pro")
        traces.add(messages(one))
    # Twice as long as any of its tier; a Pro picture of 2 s is as usual.
    traces.add(messages(request_spans("slow", at_ms=5000, length_ms=200)))
    assert [one.trace_id for one in traces.requests(lambda one: one.slow, 10)] == [trace_id("slow")]
    for number in range(100):
        traces.add(messages(request_spans(f"g{number}", at_ms=9000 + number)))
    assert trace_id("slow") in kept(traces), "it is kept longer"


def test_a_request_under_way_is_not_dropped_for_those_that_end_meanwhile():
    traces = store(count=8)
    long = request_spans("long", length_ms=60_000)
    traces.add(messages(long[1:]))
    for number in range(50):
        traces.add(messages(request_spans(str(number), at_ms=1000 * number)))
    traces.add(messages(long[:1]))
    assert same(traces.get(trace_id("long")).spans(), long)


def test_traces_that_never_end_do_not_fill_the_store():
    traces = store(count=8)
    for number in range(100):
        traces.add(messages([span(f"s{number}", 0, 1, trace=f"t{number}", service="diffusion")]))
    assert traces.stats.trace_count <= 8
    for number in range(6):
        traces.add(messages(request_spans(str(number), at_ms=number)))
    assert len(kept(traces)) == 6


def test_a_span_that_comes_late_does_not_begin_a_dropped_trace_anew():
    traces = store(count=1)
    late = request_spans("1")
    traces.add(messages(late[:-1]))
    traces.add(messages(request_spans("2", at_ms=1000)))
    before = traces.stats.dropped_span_count
    traces.add(messages(late[-1:]))
    assert kept(traces) == [trace_id("2")]
    assert traces.stats.dropped_span_count == before + 1


def test_several_requests_of_one_trace_are_all_listed():
    traces = store()
    first = request_spans("1")
    again = span(
        "again", 500, 600, name=first[0].name, kind="server", attributes=first[0].attributes
    )
    traces.add(messages([*first, again]))
    assert [one.span_id for one in traces.requests(lambda _: True, 10)] == [
        again.span_id,
        first[0].span_id,
    ]


def test_what_was_under_way_at_a_time_is_found():
    traces = store()
    for number in range(4):
        traces.add(messages(request_spans(str(number), at_ms=200 * number)))
    [first, *_] = traces.requests(lambda one: one.trace_id == trace_id("1"), 1)
    found = traces.between(first.end_ns, first.end_ns + 150_000_000)
    assert found == [trace_id("1"), trace_id("2")]


@settings(deadline=None)
@given(
    sizes=st.lists(st.tuples(st.sampled_from(["OK", "INTERNAL", "open"]), st.integers(1, 400))),
    count=st.integers(0, 12),
    size=st.integers(0, 60_000),
)
def test_the_limits_hold_whatever_comes(sizes, count, size):
    traces = store(count, size)
    for number, (status, length_ms) in enumerate(sizes):
        spans = request_spans(
            str(number),
            at_ms=number,
            length_ms=length_ms,
            status="OK" if status == "open" else status,
        )
        traces.add(messages(spans[1:] if status == "open" else spans))
        stats = traces.stats
        assert stats.trace_count <= count
        assert stats.size_bytes <= size
        everything = [traces.get(one) for one in traces.trace_ids("")]
        assert sum(one.size_bytes for one in everything) == stats.size_bytes
        assert len(everything) + stats.dropped_trace_count == number + 1


@pytest.mark.parametrize("prefix", ["", "0" * 20])
def test_ids_are_found_by_their_beginning(prefix):
    traces = store()
    traces.add(messages([*request_spans("1"), *request_spans("2")]))
    assert set(traces.trace_ids(prefix)) == {trace_id("1"), trace_id("2")}
