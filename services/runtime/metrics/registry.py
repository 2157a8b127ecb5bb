"""The metrics of one service, and the HTTP endpoint that Prometheus fetches them from.

`prometheus_client` and not OpenTelemetry's exporter, which leaves out exemplars: the trace beside a
slow call is half of what the endpoint is for. Each service has a registry of its own, for a process
may host several. The library is imported by the first of them: a process that serves no metrics
does not pay for it.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from . import declarations
from .declarations import Declared

if TYPE_CHECKING:
    import threading
    from wsgiref.simple_server import WSGIServer

    from prometheus_client import Counter, Histogram, Metric

# Values by the labels of their series, in the order of the declaration.
Readings: TypeAlias = Mapping[tuple[str, ...], float]


class Metrics:
    """The metrics of one service.

    Attributes:
        port: where they are served; 0 before `serve`.

    Args:
        service: its name.
    """

    def __init__(self, service: str) -> None:
        from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics

        # Two more series for each, which say no more than the start time below.
        disable_created_metrics()
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        started_s = time.time()
        self.read(declarations.START_TIME, lambda: {(service,): started_s})
        self._server: tuple[WSGIServer, threading.Thread] | None = None
        self.port = 0

    def counter(self, declared: Declared) -> "Counter":
        """Returns a counter to increment."""
        from prometheus_client import Counter

        return Counter(declared.name, declared.text, declared.labels, registry=self._registry)

    def histogram(self, declared: Declared) -> "Histogram":
        """Returns a histogram to give durations or sizes to."""
        from prometheus_client import Histogram

        return Histogram(
            declared.name,
            declared.text,
            declared.labels,
            registry=self._registry,
            buckets=declared.buckets,
        )

    def read(self, declared: Declared, read: Callable[[], Readings]) -> None:
        """Has a gauge or a counter read whenever the metrics are fetched.

        Args:
            declared: which.
            read: returns what it is now; called on the endpoint's threads.
        """
        # Anything with these two methods is a collector; the library's types ask for its base.
        self._registry.register(_Reader(declared, read))  # pyright: ignore[reportArgumentType]

    def text(self) -> str:
        """Returns all of them in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry).decode()

    async def serve(self, host: str, port: int) -> None:
        """Serves them over HTTP until `close`, on threads of its own.

        Raises:
            OSError: the port is taken, or there is no such address.
        """
        from prometheus_client import start_http_server

        # On a thread, because it asks for the name of the host.
        self._server = await asyncio.to_thread(
            start_http_server, port, addr=host, registry=self._registry
        )
        self.port = self._server[0].server_port

    async def close(self) -> None:
        """Ceases to serve them."""
        if self._server is not None:
            server, thread = self._server
            self._server = None
            await asyncio.to_thread(server.shutdown)
            server.server_close()
            thread.join()


class _Reader:
    """A metric that is read when it is fetched."""

    def __init__(self, declared: Declared, read: Callable[[], Readings]) -> None:
        self._declared = declared
        self._read = read

    def describe(self) -> "Iterable[Metric]":
        return [self._family({})]

    def collect(self) -> "Iterable[Metric]":
        return [self._family(self._read())]

    def _family(self, readings: Readings) -> "Metric":
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        declared = self._declared
        family = kinds[declared.kind](declared.name, declared.text, labels=declared.labels)
        for labels, value in readings.items():
            family.add_metric(labels, value)
        return family
