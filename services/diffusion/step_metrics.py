"""What the step loops of a service have done, for Prometheus.

A step costs two histograms a look at their buckets, on the engine's thread; all else is read when
the metrics are fetched, from what the loops count anyway.
"""

from collections.abc import Callable, Iterable, Mapping

from ..runtime.engines.engine import padding_row_count
from ..runtime.metrics import declarations
from ..runtime.metrics.exemplars import exemplar_of
from ..runtime.metrics.registry import Metrics
from .models import DiffusionModel, UnetLoop
from .stepper import BatchStep
from .tracing import MemberTrace


class StepMetrics:
    """The metrics of a service's step loops.

    Args:
        metrics: where they are counted.
        models: returns the models that are loaded, by their IDs.
    """

    def __init__(
        self, metrics: Metrics, models: Callable[[], Mapping[str, DiffusionModel]]
    ) -> None:
        self._models = models
        self._seconds = metrics.histogram(declarations.STEP_SECONDS)
        self._rows = metrics.histogram(declarations.STEP_ROWS)
        self._read(metrics, declarations.ROWS_IN_FLIGHT, lambda unet: unet.loop.row_count)
        self._read(
            metrics, declarations.STEP_PADDING_ROWS, lambda unet: padding_row_count(unet.engine)
        )
        self._read(
            metrics, declarations.WASTED_STEPS, lambda unet: unet.loop.counts.wasted_step_count
        )
        metrics.read(declarations.JOBS, self._jobs)
        metrics.read(
            declarations.STEP_ROW_LIMIT,
            lambda: {(name,): model.loop.row_limit for name, model in self._loaded()},
        )

    def observer_of(self, model_id: str) -> Callable[[BatchStep], None]:
        """Returns an observer of a model's loops."""
        seconds, rows = self._seconds.labels(model_id), self._rows.labels(model_id)

        def observe(step: BatchStep) -> None:
            if step.error is not None:
                return
            traces = [job.trace for job in step.jobs if isinstance(job.trace, MemberTrace)]
            exemplars = (exemplar_of(member.context) for member in traces)
            # Any member's trace leads to the step, whose links lead to the others'.
            exemplar = next(filter(None, exemplars), None)
            seconds.observe((step.ended_ns - step.started_ns) / 1e9, exemplar)
            rows.observe(step.row_count)

        return observe

    def _loaded(self) -> Iterable[tuple[str, DiffusionModel]]:
        # A copy: the metrics are fetched on a thread, maybe while a model is being loaded.
        return list(self._models().items())

    def _read(
        self,
        metrics: Metrics,
        declared: declarations.Declared,
        value: Callable[[UnetLoop], float],
    ) -> None:
        """Has the sum over the loops of each model read."""
        metrics.read(
            declared,
            lambda: {(name,): sum(map(value, model.loops)) for name, model in self._loaded()},
        )

    def _jobs(self) -> dict[tuple[str, ...], float]:
        found: dict[tuple[str, ...], float] = {}
        for name, model in self._loaded():
            counts = [unet.loop.counts for unet in model.loops]
            found[name, "finished"] = sum(one.finished_job_count for one in counts)
            found[name, "failed"] = sum(one.failed_job_count for one in counts)
            found[name, "left"] = sum(one.left_job_count for one in counts)
        return found
