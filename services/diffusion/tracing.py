"""One span for each batch step, linked to the calls whose rows it ran.

A step belongs to many traces, so its span is a root of its own with a link to every member; most
viewers follow links in one direction, so the member's span names its batches too, by row counts.
"""

from opentelemetry import trace
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from ..runtime import telemetry
from ..runtime.engines.traced import engine_attributes
from .stepper import BatchStep


class BatchTracer:
    """Observer of a step loop."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def __call__(self, step: BatchStep) -> None:
        """Records a step that has just ended."""
        links = [
            Link(job.trace, {telemetry.STEP_INDEX: index})
            for job, index in zip(step.jobs, step.step_indices, strict=True)
            if job.trace is not None and job.trace.is_valid
        ]
        span = self._tracer.start_span(
            telemetry.SPAN_BATCH_STEP,
            context=trace.set_span_in_context(trace.INVALID_SPAN),
            kind=SpanKind.INTERNAL,
            links=links,
            attributes={
                telemetry.STAGE: "diffusion",
                **engine_attributes(step.engine),
                telemetry.BATCH_ROWS: step.row_count,
                telemetry.QUEUE_SECONDS: step.queue_seconds,
                telemetry.COMPUTE_SECONDS: (step.ended_ns - step.started_ns) / 1e9,
                telemetry.BATCH_JOBS: len(step.jobs),
            },
            start_time=step.started_ns,
        )
        if step.error is not None:
            span.set_attribute(telemetry.ERROR_TYPE, step.error.code.name)
            span.set_status(Status(StatusCode.ERROR, step.error.code.name))
        span.end(end_time=step.ended_ns)
