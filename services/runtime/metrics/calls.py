"""Calls by method and status, and what they took."""

from . import declarations
from .exemplars import current_exemplar
from .registry import Metrics


class CallMetrics:
    """Counts the calls of a service, within their spans."""

    def __init__(self, metrics: Metrics) -> None:
        self._calls = metrics.counter(declarations.CALLS)
        self._seconds = metrics.histogram(declarations.CALL_SECONDS)

    def note(self, method: str, code: str, seconds: float) -> None:
        """Notes that a call has ended.

        Args:
            method: of the service's own, which are few: `package.Service/Method`.
            code: name of its gRPC status.
            seconds: what it took.
        """
        self._calls.labels(method, code).inc()
        self._seconds.labels(method).observe(seconds, current_exemplar())
