"""Hands the spans of a process on, in batches, on a thread of its own.

Whoever gets them may be slow, dead or refuse: then spans are lost and counted, and nobody waits.
OpenTelemetry's own batch processor counts nothing, logs what it drops one by one, and with a dead
collector takes up to half a minute to close (read in 1.45.2).
"""

import threading
from collections import deque
from collections.abc import Sequence

import structlog
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

QUEUE_LIMIT = 4096
# Encoding a batch holds the interpreter's lock: so few spans that the event loop barely notices.
BATCH_LIMIT = 128
INTERVAL_S = 0.5
# What the end of a process waits for its last spans to be taken.
CLOSE_S = 1.0

_log = structlog.get_logger()


class SpanBatches(SpanProcessor):
    """Gathers spans that have ended and exports them.

    Attributes:
        exported_count: spans that were taken.
        lost_count: spans that were not: the queue was full, or the exporter failed.

    Args:
        exporter: takes the spans; called on this processor's thread only.
        target: who that is, for the log.
        queue_limit: spans that may wait; the oldest go first.
        interval_s: how long a span waits at most before it is handed on.
        close_s: how long `shutdown` waits for what is left.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        target: str,
        queue_limit: int = QUEUE_LIMIT,
        interval_s: float = INTERVAL_S,
        close_s: float = CLOSE_S,
    ) -> None:
        self._exporter = exporter
        self._target = target
        self._queue_limit = queue_limit
        self._interval_s = interval_s
        self._close_s = close_s
        self._lock = threading.Lock()
        self._exporting = threading.Lock()
        self._queue: deque[ReadableSpan] = deque(maxlen=queue_limit)
        self._due = threading.Event()
        self._closed = False
        self._failing = False
        self.exported_count = 0
        self.lost_count = 0
        # A daemon, so that a collector that hangs cannot keep the process.
        self._thread = threading.Thread(target=self._run, name="span_batches", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        """Takes a span that has ended; never waits."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        with self._lock:
            if self._closed:
                self.lost_count += 1
                return
            self.lost_count += len(self._queue) == self._queue_limit
            self._queue.append(span)
            full = len(self._queue) >= BATCH_LIMIT
        if full:
            self._due.set()

    def shutdown(self) -> None:
        """Hands on what is left, as far as that goes within `close_s`."""
        with self._lock:
            self._closed = True
        self._due.set()
        self._thread.join(self._close_s)
        # Wakes an export that waits for its next try; those that come after it fail at once.
        self._exporter.shutdown()
        with self._lock:
            self.lost_count += len(self._queue)
            self._queue.clear()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 the SDK's name
        """Hands on what is there now; blocks as long as the exporter does."""
        self._export_all()
        return not self._failing

    def _run(self) -> None:
        while not self._closed:
            self._due.wait(self._interval_s)
            self._due.clear()
            self._export_all()
        self._export_all()

    def _export_all(self) -> None:
        with self._exporting:
            while batch := self._take():
                self._export(batch)

    def _take(self) -> Sequence[ReadableSpan]:
        with self._lock:
            count = min(BATCH_LIMIT, len(self._queue))
            return [self._queue.popleft() for _ in range(count)]

    def _export(self, batch: Sequence[ReadableSpan]) -> None:
        try:
            done = self._exporter.export(batch) is SpanExportResult.SUCCESS
        except Exception:
            _log.exception("span_export_crashed", target=self._target)
            done = False
        with self._lock:
            self.exported_count += len(batch) if done else 0
            self.lost_count += 0 if done else len(batch)
        if done == self._failing:
            self._failing = not done
            # One line when it begins and one when it ends, however long it lasts.
            if done:
                _log.info("spans_arriving", target=self._target, lost_count=self.lost_count)
            else:
                _log.warning("spans_lost", target=self._target, lost_count=self.lost_count)
