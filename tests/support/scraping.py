"""Metrics endpoints as Prometheus sees them."""

import random
import socket
import urllib.request
from contextlib import ExitStack

from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as open_metrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from sangsang.services.runtime.metrics.declarations import Declared

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def free_ports(count: int) -> int:
    """The first of some ports in a row that nobody listens on.

    Not of those that the system gives to whoever asks for any, as the services here do.
    """
    while True:
        first = random.randrange(20000, 32000 - count)
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first


def fetch(port: int, accept: str = "text/plain") -> str:
    """What an endpoint answers; blocks."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.headers["Content-Type"].startswith(accept.partition(";")[0])
        return response.read().decode()


class Values:
    """The samples of a text."""

    def __init__(self, text: str) -> None:
        self.samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def of(self, declared: Declared, part: str = "", **labels: str) -> float:
        """The sum over the series that have these labels; there must be one."""
        found = [
            sample.value
            for sample in self.samples
            if sample.name == declared.name + part and labels.items() <= sample.labels.items()
        ]
        assert found, f"no {declared.name}{part} {labels}"
        return sum(found)

    def by(self, declared: Declared, *names: str, part: str = "") -> dict[tuple[str, ...], float]:
        """The values that are not zero, by some labels."""
        found: dict[tuple[str, ...], float] = {}
        for sample in self.samples:
            if sample.name == declared.name + part and sample.value:
                key = tuple(sample.labels[name] for name in names)
                found[key] = found.get(key, 0.0) + sample.value
        return found


def trace_ids(text: str, declared: Declared) -> set[str]:
    """The trace IDs of a histogram's exemplars, in an answer in the OpenMetrics format."""
    return {
        sample.exemplar.labels["trace_id"]
        for family in open_metrics_families(text)
        for sample in family.samples
        if sample.name == declared.name + "_bucket" and sample.exemplar
    }
