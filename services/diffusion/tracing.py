"""One span for each batch step, linked to the calls whose rows it ran, and they to it.

A step belongs to many traces, so its span is a root of its own with a link to every member. Most
viewers follow links in one direction only, so a member's span links its steps too: all at once when
the call ends, for between two steps the device waits.
"""

from opentelemetry import trace
from opentelemetry.trace import Link, SpanContext, SpanKind

from ..runtime import telemetry
from ..runtime.engines.traced import engine_attributes
from ..runtime.span_status import note_failure
from .stepper import BatchStep


class MemberTrace:
    """What ties a call to its steps.

    Attributes:
        context: of the call's span.

    Args:
        span: of the call.
    """

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._steps: list[SpanContext] = []
        self.context = span.get_span_context()

    def add_step(self, step: SpanContext) -> None:
        """Notes a step; called on the engine's thread."""
        self._steps.append(step)

    def link_steps(self) -> None:
        """Links the call's span to its steps; called once, before the span ends."""
        for step in tuple(self._steps):
            self._span.add_link(step)


class BatchTracer:
    """Observer of a step loop."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def __call__(self, step: BatchStep) -> None:
        """Records a step that has just ended."""
        # A job may come without one: from a test, or from whoever has the loop without the service.
        members = [job.trace for job in step.jobs if isinstance(job.trace, MemberTrace)]
        links = [
            Link(job.trace.context, {telemetry.STEP_INDEX: index, telemetry.TIER: job.tier})
            for job, index in zip(step.jobs, step.step_indices, strict=True)
            if isinstance(job.trace, MemberTrace) and job.trace.context.is_valid
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
                telemetry.BATCH_PADDING: step.padding_row_count,
                telemetry.QUEUE_SECONDS: step.queue_seconds,
                telemetry.COMPUTE_SECONDS: (step.ended_ns - step.started_ns) / 1e9,
                telemetry.BATCH_JOBS: len(step.jobs),
            },
            start_time=step.started_ns,
        )
        if step.error is not None:
            note_failure(span, step.error.code.name)
        span.end(end_time=step.ended_ns)
        for member in members:
            member.add_step(span.get_span_context())
