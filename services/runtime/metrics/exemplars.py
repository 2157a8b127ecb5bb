"""The trace beside a measured duration: what leads from a slow bucket to one call that was slow."""

from opentelemetry import trace

TRACE_ID = "trace_id"


def exemplar_of(context: trace.SpanContext | None) -> dict[str, str] | None:
    """Returns what a histogram keeps of a span: its trace's ID; None if nobody records it."""
    if context is None or not context.is_valid or not context.trace_flags.sampled:
        return None
    return {TRACE_ID: f"{context.trace_id:032x}"}


def current_exemplar() -> dict[str, str] | None:
    """Returns the same of the span that work here belongs to."""
    return exemplar_of(trace.get_current_span().get_span_context())
