"""One span for each execution of an engine, under the span of the call that it is done for."""

import time
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from .. import telemetry
from ..worker import queue_seconds
from .engine import Array, Engine
from .wrapped import WrappedEngine


class TracedEngine(WrappedEngine):
    """An engine whose executions show in the traces of their calls.

    What is done for no call has no span: a warm-up belongs to nobody, and a batch step of the
    diffusion loop belongs to many, which its own `batch_step` span shows once for all of them.

    Args:
        engine: the engine within.
        tracer: makes the spans.
    """

    def __init__(self, engine: Engine, tracer: trace.Tracer) -> None:
        super().__init__(engine)
        self._tracer = tracer

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every output for a batch; see `Engine.infer`."""
        if not trace.get_current_span().get_span_context().is_valid:
            return self._engine.infer(inputs)
        attributes = {
            **engine_attributes(self._engine),
            telemetry.BATCH_ROWS: _row_count(inputs),
            telemetry.QUEUE_SECONDS: queue_seconds(),
        }
        with self._tracer.start_as_current_span(
            telemetry.SPAN_ENGINE_INFER,
            attributes=attributes,
            # An engine's message may quote its inputs, so an error is told by its type alone.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            return self._timed(inputs, span)

    def _timed(self, inputs: Mapping[str, Array], span: trace.Span) -> dict[str, Array]:
        started_at = time.perf_counter()
        try:
            return self._engine.infer(inputs)
        except Exception as error:
            span.set_attribute(telemetry.ERROR_TYPE, type(error).__name__)
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            span.set_attribute(telemetry.COMPUTE_SECONDS, time.perf_counter() - started_at)


def engine_attributes(engine: Engine) -> dict[str, str]:
    """Returns the attributes of a span that say which engine it is about."""
    return {
        telemetry.ENGINE_MODULE: engine.name,
        telemetry.ENGINE_BACKEND: engine.backend,
        telemetry.ENGINE_PRECISION: engine.precision,
    }


def _row_count(inputs: Mapping[str, Array]) -> int:
    """Returns the rows of a batch: the first dimension of any input; 0 where there is none."""
    return next((array.shape[0] for array in inputs.values() if array.ndim), 0)
