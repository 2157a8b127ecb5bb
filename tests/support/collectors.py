"""Collectors of traces as nobody wants them: away, silent, slow, or refusing."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

# Longer than an export waits, which is ten seconds.
SLOW_S = 10.0


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans, after a while, or refuses them. For any thread.

    Attributes:
        address: `host:port`, once it serves.
        refusal: the status that every export ends with; None to take spans.
        taken_count: spans that were taken.
    """

    def __init__(self, *, delay_s: float = 0.0, refusal: grpc.StatusCode | None = None) -> None:
        self._delay_s = delay_s
        self._over = threading.Event()
        self.refusal = refusal
        self.taken_count = 0
        self.address = ""

    def Export(self, request, context):
        self._over.wait(self._delay_s)
        if self.refusal is not None:
            context.abort(self.refusal, "this collector refuses")
        scopes = [scope for resource in request.resource_spans for scope in resource.scope_spans]
        self.taken_count += sum(len(scope.spans) for scope in scopes)
        return trace_service_pb2.ExportTraceServiceResponse()

    @contextmanager
    def served(self) -> Iterator["Collector"]:
        """Serves on a free port of loopback."""
        server = grpc.server(ThreadPoolExecutor(16))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, server)
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield self
        finally:
            self._over.set()
            server.stop(0).wait()


@contextmanager
def dead() -> Iterator[str]:
    """Address that refuses connections, and stays that way."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@contextmanager
def silent() -> Iterator[str]:
    """Address of somebody who takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def _of(**fields: object) -> Iterator[str]:
    with Collector(**fields).served() as collector:
        yield collector.address


# Each gives the address of a collector that takes no span, or says so too late.
USELESS: dict[str, Callable[[], AbstractContextManager[str]]] = {
    "dead": dead,
    "silent": silent,
    "slow": lambda: _of(delay_s=SLOW_S),
    "unavailable": lambda: _of(refusal=grpc.StatusCode.UNAVAILABLE),
    "exhausted": lambda: _of(refusal=grpc.StatusCode.RESOURCE_EXHAUSTED),
}
