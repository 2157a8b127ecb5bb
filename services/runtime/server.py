"""The process around a service: gRPC server, health, reflection, warm-up, lame-duck drain.

Health says NOT_SERVING while the models load and warm up, SERVING afterwards, and NOT_SERVING
again for `lame_duck_s` before the server stops taking calls: callers that watch health go
elsewhere first, so a rolling restart fails no call that ends within `grace_s`. Those that do not
end as UNAVAILABLE, which tells their callers to try elsewhere. A process that can no longer be
trusted says NOT_SERVING and ends at once, with a status that has its supervisor start it anew.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, Protocol

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_SERVICE
from grpc_health.v1.health import aio as health_aio  # pyright: ignore[reportAttributeAccessIssue] set at run time
from grpc_reflection.v1alpha import reflection

from .calls import KEEPALIVE_TIME_MS
from .errors import MeshError
from .interceptors import CallInterceptor
from .logs import configure_logs
from .metrics import declarations
from .metrics.calls import CallMetrics
from .metrics.registry import Metrics
from .running_calls import RunningCalls
from .settings import ProcessSettings
from .telemetry import Telemetry

# Between ending the calls that outlast the grace and closing their connections, so that their
# statuses arrive.
FAREWELL_S = 0.5
# For calls of a failed process to tell what happened before they are ended.
_LAST_WORDS_S = 0.2
_LAST_EXPORT_S = 1.0
FAILED = 1

_log = structlog.get_logger()


class Service(Protocol):
    """What a process serves.

    Attributes:
        name: short name for logs and traces, e.g. `diffusion`.
        service_names: full names of its gRPC services, for health and reflection.
    """

    @property
    def name(self) -> str: ...
    @property
    def service_names(self) -> Sequence[str]: ...

    def add_to_server(self, server: grpc.aio.Server, telemetry: Telemetry) -> None:
        """Registers the servicers."""
        ...

    def measure(self, metrics: Metrics) -> None:
        """Counts its work in these metrics; called first, and only where they are served."""
        ...

    def watch(self, on_fatal: Callable[[], None]) -> None:
        """Has `on_fatal` called if the process can no longer be trusted, whoever notices."""
        ...

    async def load(self) -> None:
        """Loads and warms up; calls are answered once it returns."""
        ...

    async def close(self) -> None:
        """Frees what `load` took, after the last call has ended."""
        ...


class ServiceHost:
    """Serves one `Service` on one port.

    Attributes:
        port: the port that it listens on; set by `start`.
        stopping: set when the process should end.
        failing: set when it should end because of a fatal error.
    """

    def __init__(
        self, service: Service, settings: ProcessSettings, telemetry: Telemetry | None = None
    ) -> None:
        self._service = service
        self._settings = settings
        collector = settings.otlp_endpoint if settings.tracing else ""
        self._telemetry = telemetry or Telemetry.to_collector(service.name, collector)
        self._health = health_aio.HealthServicer()
        self._calls = RunningCalls()
        self._metrics = Metrics(service.name) if settings.metrics_port else None
        self._server: grpc.aio.Server | None = None
        self.port = 0
        self.stopping = asyncio.Event()
        self.failing = asyncio.Event()

    @property
    def failed(self) -> bool:
        """Whether it should end because of a fatal error."""
        return self.failing.is_set()

    async def start(self) -> None:
        """Listens, loads, and says SERVING.

        Raises:
            MeshError: the models cannot be served.
            OSError: the port is taken.
        """
        server = self._make_server()
        self._server = server
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        try:
            self.port = server.add_insecure_port(f"{self._settings.host}:{self._settings.port}")
        except RuntimeError as error:
            taken = f"port {self._settings.port} on {self._settings.host} is taken; choose another"
            raise OSError(taken) from error
        await server.start()
        await self._serve_metrics()
        await self._service.load()
        await self._say(health_pb2.HealthCheckResponse.SERVING)
        _log.info("service_started", port=self.port)

    async def drain(self) -> None:
        """Says NOT_SERVING, lets the running calls finish, and stops."""
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        await asyncio.sleep(self._settings.lame_duck_s)
        if self._server is not None:
            await self._stop(self._server, self._settings.grace_s)
        if self._metrics is not None:
            await self._metrics.close()
        await self._service.close()
        await asyncio.to_thread(self._telemetry.close)
        _log.info("service_stopped")

    async def abandon(self) -> None:
        """Says NOT_SERVING and ends every call; waits for no engine, since one may hang."""
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        if self._server is not None:
            await self._stop(self._server, _LAST_WORDS_S)
        export = asyncio.to_thread(self._telemetry.close)
        await asyncio.wait({asyncio.ensure_future(export)}, timeout=_LAST_EXPORT_S)
        _log.error("service_abandoned")

    async def _serve_metrics(self) -> None:
        """Serves the metrics, if they are wanted; does without them if it cannot."""
        if self._metrics is None:
            return
        settings = self._settings
        # gRPC has an IPv6 address in brackets, and HTTP servers have it without.
        host, port = (settings.metrics_host or settings.host).strip("[]"), settings.metrics_port
        try:
            await self._metrics.serve(host, port)
        except OSError as error:
            # Who makes pictures must not stop because nobody can count them.
            _log.warning("metrics_unserved", port=port, reason=str(error))

    async def _stop(self, server: grpc.aio.Server, grace_s: float) -> None:
        """Takes no more calls, and ends those that outlast the grace."""
        stopped = asyncio.ensure_future(server.stop(grace_s + FAREWELL_S))
        idle = asyncio.ensure_future(self._calls.idle(FAREWELL_S))
        await asyncio.wait({stopped, idle}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        if ended := self._calls.end():
            _log.warning("calls_ended", call_count=ended, grace_s=grace_s)
        elif idle.done():
            # Whoever watches the health is told already, and never ends his call himself.
            await server.stop(None)
        idle.cancel()
        await stopped

    def stop_failed(self) -> None:
        """Asks the process to end because it can no longer be trusted."""
        self.failing.set()
        self.stopping.set()

    def _make_server(self) -> grpc.aio.Server:
        limit = self._settings.max_message_bytes
        server = grpc.aio.server(
            interceptors=[self._make_interceptor()],
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", limit),
                # Without it two processes could share a port and each get half of the calls.
                ("grpc.so_reuseport", 0),
                # Pings of our own channels would else count as abuse, and end their connections.
                ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_TIME_MS // 2),
            ],
        )
        if self._metrics is not None:
            self._service.measure(self._metrics)
            self._metrics.read(
                declarations.SPANS_LOST, lambda: {(): float(self._telemetry.lost_span_count)}
            )
        self._service.add_to_server(server, self._telemetry)
        self._service.watch(self.stop_failed)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (*self._service.service_names, HEALTH_SERVICE, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        return server

    def _make_interceptor(self) -> CallInterceptor:
        return CallInterceptor(
            self._telemetry.tracer,
            self._calls,
            on_fatal=self.stop_failed,
            metrics=None if self._metrics is None else CallMetrics(self._metrics),
        )

    async def _say(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", *self._service.service_names):
            await self._health.set(name, status)


def run_service(service: Service, settings: ProcessSettings) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second signal ends the process at once."""
    configure_logs(settings, process=service.name)
    sys.exit(asyncio.run(_run(service, settings)))


async def _run(service: Service, settings: ProcessSettings) -> int:
    host = ServiceHost(service, settings)
    _end_on_signals(host)
    try:
        await host.start()
    except (MeshError, OSError) as error:
        _log.error("service_failed", reason=str(error))
        return FAILED
    await host.stopping.wait()
    if host.failed:
        await host.abandon()
        _end_now(FAILED)
    drained = asyncio.ensure_future(host.drain())
    failed = asyncio.ensure_future(host.failing.wait())
    await asyncio.wait({drained, failed}, return_when=asyncio.FIRST_COMPLETED)
    if host.failed:
        # An engine that hangs while the process drains would be waited for without end.
        _end_now(FAILED)
    failed.cancel()
    await drained
    return 0


def _end_now(code: int) -> NoReturn:
    """Ends the process without waiting for its threads: one may never come back."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _end_on_signals(host: ServiceHost) -> None:
    def on_signal() -> None:
        if host.stopping.is_set():
            sys.exit(1)
        host.stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
