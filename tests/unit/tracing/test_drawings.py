"""A trace as lines, as lanes and as a file for Perfetto. No sockets."""

import itertools
import json
from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st
from made_traces import MS, request_spans, span, span_id_of, step, trace_id

from sangsang.orchestrator.tracing.lanes import lane_columns, lane_shares, lane_uses, merged
from sangsang.orchestrator.tracing.perfetto import threads_of, to_perfetto
from sangsang.orchestrator.tracing.tree import build_tree
from sangsang.orchestrator.tracing.waterfall import bar, singly, waterfall

STEPS = [step("s", 22, 40, {"1": 0, "2": 3}, rows=4), step("u", 45, 79, {"1": 1}, rows=2)]


def tree(spans):
    return build_tree(spans, span_id_of("r1"))


def test_every_span_has_a_line_and_its_steps_have_one():
    lines = waterfall(tree([*request_spans("1"), *STEPS]))
    assert [(line.depth, line.label) for line in lines] == [
        (0, "GenerateImages"),
        (1, "generate picture"),
        (2, "admission wait"),
        (2, "call EncodeText"),
        (3, "EncodeText"),
        (4, "engine infer"),
        (2, "lane wait"),
        (2, "call Denoise"),
        (3, "Denoise"),
        (4, "2 batch steps"),
    ]
    assert lines[-1].duration_ns == 52 * MS
    assert lines[-1].note == "3 rows on average"
    assert lines[7].note == "device0 lane 0"
    assert {line.service for line in lines} == {"orchestrator", "text_encoding", "diffusion"}


def test_each_step_has_a_line_where_asked_for():
    root = tree([*request_spans("1"), *STEPS])
    lines = waterfall(root, every_step=True)
    assert [line.label for line in lines[-2:]] == ["batch step", "batch step"]
    assert [line.note for line in lines[-2:]] == ["4 rows", "2 rows"]
    inner = singly(waterfall(root)[-1])
    assert [line.spans for line in inner] == [line.spans for line in lines[-2:]]
    assert [line.critical for line in inner] == [line.critical for line in lines[-2:]]


def test_the_lines_critical_times_add_up_to_the_latency():
    for every_step in (False, True):
        lines = waterfall(tree([*request_spans("1"), *STEPS]), every_step=every_step)
        assert sum(e - s for line in lines for s, e in line.critical) == 100 * MS


def test_a_failure_is_named():
    failed = span("f", 5, 9, parent="r1", failed=True, attributes={"error.type": "UNAVAILABLE"})
    [line] = [one for one in waterfall(tree([*request_spans("1"), failed])) if one.failed]
    assert line.note == "UNAVAILABLE"


def test_a_bar_shows_when_and_what_was_waited_for():
    root = build_tree([span("r1", 0, 100), span("b", 20, 50, parent="r1")], span_id_of("r1"))
    top, below = waterfall(root)
    start, end = top.start_ns, top.spans[0].end_ns
    assert bar(top, start, end, 10) == "##---#####"
    assert bar(below, start, end, 10) == "  ###     "
    short = build_tree([span("r1", 0, 100), span("b", 20, 20.1, parent="r1")], span_id_of("r1"))
    assert bar(waterfall(short)[1], start, end, 10) == "  #       ", "nothing is invisible"


def test_lanes_are_told_by_the_calls_and_runs_by_what_they_were_for():
    spans = [*request_spans("1"), *request_spans("2"), *STEPS]
    uses = lane_uses(spans)
    held = [(use.stage, use.lane) for use in uses if not use.runs]
    assert sorted(held) == [("diffusion", 0)] * 2 + [("text_encoding", 1)] * 2
    runs = [(use.stage, use.lane, use.row_count, use.trace_ids) for use in uses if use.runs]
    one, two = trace_id("1"), trace_id("2")
    assert ("diffusion", 0, 4, (one, two)) in runs
    assert ("diffusion", 0, 2, (one,)) in runs
    assert [run for run in runs if run[0] == "text_encoding"] == [
        ("text_encoding", 1, 0, (one,)),
        ("text_encoding", 1, 0, (two,)),
    ]


def test_shares_count_time_once_however_many_held_the_lane():
    uses = lane_uses([*request_spans("1"), *request_spans("2"), *STEPS])
    start = request_spans("1")[0].start_ns
    shares = lane_shares(uses, start, start + 50 * MS)
    diffusion = shares["device0", 0]["diffusion"]
    # From 19 to the end, and steps from 22 to 40 and from 45 on.
    assert (diffusion.held_ns, diffusion.run_ns) == (31 * MS, 23 * MS)
    assert shares["device0", 1]["text_encoding"].held_ns == 10 * MS


def test_a_column_is_of_whoever_had_most_of_it():
    uses = [use for use in lane_uses([*request_spans("1"), *STEPS]) if use.lane == 0]
    start = request_spans("1")[0].start_ns
    columns = lane_columns(uses, start, start + 100 * MS, 10)
    signs = ["." if one is None else "#" if one.runs else "-" for one in columns]
    assert "".join(signs) == ".-##-###-."


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50))))
def test_merged_times_cover_the_same_and_do_not_touch(times):
    found = merged(times)
    covered = {at for start, end in times for at in range(start, end)}
    assert {at for start, end in found for at in range(start, end)} == covered
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(found))


def test_a_perfetto_file_has_what_the_format_asks_for():
    spans = [*request_spans("1"), *STEPS]
    events = json.loads(to_perfetto(spans, lane_uses([*spans, *request_spans("2")])))["traceEvents"]
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    processes = {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert processes == {"orchestrator", "text_encoding", "diffusion", "device0"}
    boxes = [e for e in events if e["ph"] == "X"]
    assert all(e["ts"] >= 0 and e["dur"] >= 0 for e in boxes)
    assert {(e["pid"], e["tid"]) for e in boxes} == named
    _assert_nested(boxes)
    labels = [e["name"] for e in boxes]
    assert labels.count("batch step") == 2
    assert labels.count("diffusion: 4 rows") == 1
    starts = {e["id"] for e in events if e["ph"] == "s"}
    ends = {e["id"] for e in events if e["ph"] == "f"}
    assert ends <= starts, "an arrow that ends begins somewhere"
    [root] = [e for e in boxes if e["name"] == "GenerateImages"]
    assert (root["ts"], root["dur"]) == (0, 100_000)
    assert root["args"]["sangsang.model.id"] == "pocket"


def _assert_nested(boxes):
    """Perfetto draws nonsense where spans of one thread overlap without nesting."""
    threads = defaultdict(list)
    for event in boxes:
        threads[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for times in threads.values():
        for one in times:
            for other in times:
                apart = one[1] <= other[0] or other[1] <= one[0]
                inside = one[0] <= other[0] <= other[1] <= one[1]
                outside = other[0] <= one[0] <= one[1] <= other[1]
                assert apart or inside or outside


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)).map(lambda t: (t[0], sum(t)))))
def test_spans_of_one_thread_nest_or_lie_apart(times):
    threads = threads_of(times)
    _assert_nested(
        [
            {"pid": 1, "tid": thread, "ts": start, "dur": end - start}
            for thread, (start, end) in zip(threads, times, strict=True)
        ]
    )
    if all(a[1] <= b[0] or b[1] <= a[0] for a in times for b in times if a is not b):
        assert set(threads) <= {0}, "no thread more than needed"


def test_an_empty_trace_is_an_empty_file():
    assert json.loads(to_perfetto([], []))["traceEvents"] == []
