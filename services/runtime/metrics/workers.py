"""The threads that engines run on: who waits for them, and whether they come back."""

import time
from collections.abc import Callable, Sequence

from ..worker import EngineWorker
from . import declarations
from .exemplars import current_exemplar
from .registry import Metrics


class WorkerMetrics:
    """Watches the workers of a stage, which have different names."""

    def __init__(self, metrics: Metrics, workers: Sequence[EngineWorker]) -> None:
        self._workers = tuple(workers)
        self._wait = metrics.histogram(declarations.ENGINE_WAIT_SECONDS)
        for worker in workers:
            worker.on_wait = self._waited(worker.name)
        self._read(metrics, declarations.ENGINE_QUEUE_DEPTH, lambda one: one.pending_count)
        self._read(metrics, declarations.ENGINE_CALL_AGE, lambda one: one.call_age_s)
        self._read(metrics, declarations.ENGINE_HANGS, lambda one: float(one.hung))
        self._read(
            metrics,
            declarations.ENGINE_BUSY_SECONDS,
            lambda one: one.busy.seconds(time.perf_counter()),
        )

    def _read(
        self,
        metrics: Metrics,
        declared: declarations.Declared,
        value: Callable[[EngineWorker], float],
    ) -> None:
        metrics.read(declared, lambda: {(one.name,): value(one) for one in self._workers})

    def _waited(self, worker: str) -> Callable[[float], None]:
        waits = self._wait.labels(worker)
        return lambda seconds: waits.observe(seconds, current_exemplar())
