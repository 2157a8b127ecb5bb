"""Spans leave the process without anybody waiting for whoever takes them. No sockets."""

import threading
import time

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from sangsang.services.runtime.span_batches import BATCH_LIMIT, SpanBatches
from sangsang.services.runtime.telemetry import Telemetry


class FakeExporter(SpanExporter):
    """Takes spans, refuses them, breaks, or hangs until it is shut down."""

    def __init__(self, does="take"):
        self.does = does
        self.batches = []
        self.entered, self.released = threading.Event(), threading.Event()

    def export(self, spans):
        self.entered.set()
        self.batches.append([span.name for span in spans])
        if self.does == "break":
            raise RuntimeError("secret")
        if self.does == "hang":
            self.released.wait(30)
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS if self.does == "take" else SpanExportResult.FAILURE

    def shutdown(self):
        self.released.set()

    @property
    def names(self):
        return [name for batch in self.batches for name in batch]


def batches_of(exporter, **fields):
    return SpanBatches(exporter, target="test", **{"interval_s": 0.01, "close_s": 5.0, **fields})


def make_spans(batches, names):
    telemetry = Telemetry("test", processors=(batches,))
    for name in names:
        telemetry.tracer.start_span(name).end()
    return telemetry


NAMES = [str(number) for number in range(3 * BATCH_LIMIT)]


def test_every_span_arrives_in_order_and_in_small_batches():
    exporter = FakeExporter()
    batches = batches_of(exporter)
    make_spans(batches, NAMES).close()
    assert exporter.names == NAMES
    assert max(map(len, exporter.batches)) <= BATCH_LIMIT
    assert (batches.exported_count, batches.lost_count) == (len(NAMES), 0)


def test_a_span_does_not_wait_for_a_batch_to_fill():
    exporter = FakeExporter()
    telemetry = make_spans(batches_of(exporter), ["one"])
    assert exporter.entered.wait(10)
    telemetry.close()
    assert exporter.names == ["one"]


def test_whoever_hangs_costs_spans_and_nothing_else():
    exporter = FakeExporter("hang")
    batches = batches_of(exporter, queue_limit=10, close_s=0.05)
    telemetry = make_spans(batches, ["first"])
    assert exporter.entered.wait(10)
    started_at = time.perf_counter()
    for number in range(1000):
        telemetry.tracer.start_span(str(number)).end()
    assert batches.lost_count == 990
    telemetry.close()
    assert time.perf_counter() - started_at < 20, "it would hang for 30 s"
    # What waited is lost as well, and what was under way once its export gives up.
    for _ in range(500):
        if batches.lost_count == 1001:
            break
        time.sleep(0.01)
    assert (batches.exported_count, batches.lost_count) == (0, 1001)


def test_the_oldest_spans_make_room():
    exporter = FakeExporter("hang")
    batches = batches_of(exporter, queue_limit=3)
    telemetry = make_spans(batches, ["first"])
    assert exporter.entered.wait(10)
    for number in range(5):
        telemetry.tracer.start_span(str(number)).end()
    exporter.does = "take"
    exporter.released.set()
    telemetry.close()
    assert exporter.names == ["first", "2", "3", "4"]


@pytest.mark.parametrize("does", ["refuse", "break"])
def test_what_is_refused_is_counted_and_what_comes_later_arrives(does):
    exporter = FakeExporter(does)
    batches = batches_of(exporter, interval_s=60)
    telemetry = make_spans(batches, ["a", "b"])
    telemetry.tracer.start_span("c").end()
    assert batches.force_flush() is False
    assert batches.lost_count == 3
    exporter.does = "take"
    telemetry.tracer.start_span("d").end()
    assert batches.force_flush() is True
    telemetry.close()
    assert (batches.exported_count, batches.lost_count) == (1, 3)


def test_a_span_that_ends_after_the_close_is_lost_and_counted():
    batches = batches_of(FakeExporter())
    telemetry = make_spans(batches, [])
    span = telemetry.tracer.start_span("late")
    telemetry.close()
    span.end()
    assert batches.lost_count == 1


def test_nothing_is_recorded_where_nobody_looks():
    telemetry = Telemetry("test")
    assert not telemetry.records
    assert not telemetry.tracer.start_span("unseen").is_recording()
    # Not even for a caller who records: it would cost time and go nowhere.
    parent = trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(1))
    context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
    span = telemetry.tracer.start_span("unseen", context=context)
    assert not span.is_recording()
    assert span.get_span_context().trace_id == 1, "the logs still have the trace's ID"


def test_a_caller_who_samples_not_is_followed():
    exporter = FakeExporter()
    telemetry = Telemetry("test")
    telemetry.add_exporter(exporter, target="test")
    assert telemetry.records
    for flags, name in ((0, "not sampled"), (1, "sampled")):
        parent = trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(flags))
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
        telemetry.tracer.start_span(name, context=context).end()
    telemetry.tracer.start_span("its own").end()
    telemetry.close()
    assert exporter.names == ["sampled", "its own"]
    assert telemetry.lost_span_count == 0
