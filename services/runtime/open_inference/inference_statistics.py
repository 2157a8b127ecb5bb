"""What the calls over this protocol have cost, for each engine.

Clients that measure (perf_analyzer) read these counts before and after, to split the time they saw
into queue and computation. Only calls over this protocol are counted: the stage's own calls of the
same engine appear in its telemetry. Written on the event loop alone, hence no lock.
"""

import time
from dataclasses import dataclass, field

from .messages import ModelStatistics, Proto
from .served_engine import TimedEngine

NANOSECONDS_PER_MILLISECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class InferenceTimes:
    """Where the time of one successful inference went, in nanoseconds."""

    queue_ns: int
    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int

    @property
    def total_ns(self) -> int:
        return (
            self.queue_ns + self.compute_input_ns + self.compute_infer_ns + self.compute_output_ns
        )


class Stopwatch:
    """Splits one inference into reading, queue and computation, and writing.

    Make it when reading starts, then call the other methods in their order.
    """

    def __init__(self) -> None:
        self._start_ns = time.perf_counter_ns()
        self._submitted_ns = self._start_ns
        self._returned_ns = self._start_ns

    def submitted(self) -> None:
        """Notes that the inputs are read and the engine is asked for."""
        self._submitted_ns = time.perf_counter_ns()

    def returned(self) -> None:
        """Notes that the engine's outputs are here."""
        self._returned_ns = time.perf_counter_ns()

    def elapsed_ns(self) -> int:
        """Returns the time since the start."""
        return time.perf_counter_ns() - self._start_ns

    def times(self, engine: TimedEngine) -> InferenceTimes:
        """Returns the split; call it when the outputs are written."""
        # A runner that never called the engine itself leaves nothing to tell the queue by.
        started_ns = engine.started_ns or self._submitted_ns
        waited_ns = self._returned_ns - self._submitted_ns
        return InferenceTimes(
            queue_ns=started_ns - self._submitted_ns,
            compute_input_ns=self._submitted_ns - self._start_ns,
            compute_infer_ns=engine.infer_ns or waited_ns,
            compute_output_ns=time.perf_counter_ns() - self._returned_ns,
        )


@dataclass(slots=True)
class _Duration:
    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns


@dataclass(slots=True)
class _BatchTimes:
    """The executions of one batch size."""

    compute_input: _Duration = field(default_factory=_Duration)
    compute_infer: _Duration = field(default_factory=_Duration)
    compute_output: _Duration = field(default_factory=_Duration)

    def add(self, times: InferenceTimes) -> None:
        self.compute_input.add(times.compute_input_ns)
        self.compute_infer.add(times.compute_infer_ns)
        self.compute_output.add(times.compute_output_ns)


class EngineStatistics:
    """The counts and times of one engine."""

    def __init__(self) -> None:
        self._last_inference_ms = 0
        self._inference_count = 0
        self._execution_count = 0
        self._success = _Duration()
        self._fail = _Duration()
        self._queue = _Duration()
        self._compute = _BatchTimes()
        self._by_batch_size: dict[int, _BatchTimes] = {}

    def record_success(self, row_count: int, execution_count: int, times: InferenceTimes) -> None:
        """Counts an inference that was answered."""
        self._touch()
        self._inference_count += row_count
        self._execution_count += execution_count
        self._success.add(times.total_ns)
        self._queue.add(times.queue_ns)
        self._compute.add(times)
        self._by_batch_size.setdefault(row_count, _BatchTimes()).add(times)

    def record_failure(self, elapsed_ns: int) -> None:
        """Counts an inference that was accepted and then failed, timed out or was cancelled."""
        self._touch()
        self._fail.add(elapsed_ns)

    def to_proto(self, name: str, version: str) -> Proto:
        """Returns these statistics as a `ModelStatistics` message."""
        message = ModelStatistics(
            name=name,
            version=version,
            last_inference=self._last_inference_ms,
            inference_count=self._inference_count,
            execution_count=self._execution_count,
        )
        _set(message.inference_stats.success, self._success)
        _set(message.inference_stats.fail, self._fail)
        _set(message.inference_stats.queue, self._queue)
        _set_compute(message.inference_stats, self._compute)
        for batch_size, times in sorted(self._by_batch_size.items()):
            _set_compute(message.batch_stats.add(batch_size=batch_size), times)
        return message

    def _touch(self) -> None:
        self._last_inference_ms = time.time_ns() // NANOSECONDS_PER_MILLISECOND


def _set(target: Proto, duration: _Duration) -> None:
    # Set also when both are 0, so that clients find the message present.
    target.SetInParent()
    target.count, target.ns = duration.count, duration.ns


def _set_compute(target: Proto, times: _BatchTimes) -> None:
    _set(target.compute_input, times.compute_input)
    _set(target.compute_infer, times.compute_infer)
    _set(target.compute_output, times.compute_output)
