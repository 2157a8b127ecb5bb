"""Services hosted in this process on loopback, with their spans kept in memory."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sangsang.services.runtime.server import Service, ServiceHost
from sangsang.services.runtime.settings import ProcessSettings
from sangsang.services.runtime.telemetry import Telemetry


class _Started(SpanProcessor):
    """Knows the spans that have begun."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_start(self, span, parent_context=None) -> None:
        self.names.append(span.name)


class Spans:
    """The spans that hosted services have ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self._started = _Started()

    def telemetry(self, service: str) -> Telemetry:
        processors = (self._started, SimpleSpanProcessor(self.exporter))
        return Telemetry(service, processors=processors)

    @property
    def started(self) -> Sequence[str]:
        """Names of the spans that have begun, whether they have ended or not."""
        return self._started.names

    @property
    def ended(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    def named(self, end: str, *, server: bool | None = None) -> list[ReadableSpan]:
        kinds = {None: ("SERVER", "CLIENT", "INTERNAL"), True: ("SERVER",), False: ("CLIENT",)}
        return [s for s in self.ended if s.name.endswith(end) and s.kind.name in kinds[server]]


@asynccontextmanager
async def hosted(
    service: Service, settings: ProcessSettings, spans: Spans
) -> AsyncIterator[ServiceHost]:
    """A running service; drained at the end."""
    host = ServiceHost(service, settings, spans.telemetry(service.name))
    try:
        await host.start()
        yield host
    finally:
        await host.drain()
