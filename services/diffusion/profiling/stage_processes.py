"""Stage services as processes of their own, pinned to one core: what is timed is what serves."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ...runtime.models.profile import StageName
from .failures import CannotProfile

STAGES: tuple[StageName, ...] = ("text_encoding", "preprocessing", "diffusion", "postprocessing")
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_START_TIMEOUT_S, _STOP_TIMEOUT_S, _POLL_S = 120.0, 20.0, 0.05
_LOOPBACK = "127.0.0.1"
# A process pins itself before it imports anything, so that every thread it starts is pinned too.
_PINNED = (
    "import os, runpy, sys; core = int(sys.argv.pop(1)); "
    "core < 0 or os.sched_setaffinity(0, {core}); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


@dataclass(frozen=True, slots=True)
class Placement:
    """What the stages serve, and where.

    Attributes:
        model: folder of the model.
        backend: engine backend.
        cache_dir: where built engines lie.
        core: the core that all run on; None lets the system choose.
    """

    model: Path
    backend: str
    cache_dir: Path
    core: int | None

    @property
    def environment(self) -> dict[str, str]:
        """Variables of every stage."""
        return {
            "SANGSANG_MODELS": str(self.model.resolve()),
            "SANGSANG_BACKEND": self.backend,
            "SANGSANG_CACHE_DIR": str(self.cache_dir),
            "SANGSANG_LOG_LEVEL": "error",
            "SANGSANG_LAME_DUCK_S": "0",
        }


@contextmanager
def running_stages(placement: Placement) -> Iterator[Mapping[StageName, grpc.Channel]]:
    """Yields a channel to each stage, all serving, and ends them afterwards.

    Raises:
        CannotProfile: a stage does not start.
    """
    with ExitStack() as stack:
        ports = dict(zip(STAGES, _free_ports(len(STAGES)), strict=True))
        children: dict[StageName, subprocess.Popen[bytes]] = {}
        for name, port in ports.items():
            children[name] = _spawn(name, port, placement)
            stack.callback(_end, children[name])
        channels: dict[StageName, grpc.Channel] = {}
        for name, port in ports.items():
            channel = _open_channel(port)
            stack.callback(channel.close)
            _wait_until_serving(name, channel, children[name])
            channels[name] = channel
        yield channels


def _spawn(name: str, port: int, placement: Placement) -> "subprocess.Popen[bytes]":
    core = -1 if placement.core is None else placement.core
    command = [sys.executable, "-c", _PINNED, str(core), f"sangsang.services.{name}"]
    environment = {**os.environ, **placement.environment, "SANGSANG_PORT": str(port)}
    # Our own modules, with our own interpreter.
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)  # noqa: S603


def _open_channel(port: int) -> grpc.Channel:
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 300),
    ]
    return grpc.insecure_channel(f"{_LOOPBACK}:{port}", options=options)


def _wait_until_serving(name: str, channel: grpc.Channel, child: "subprocess.Popen[bytes]") -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise CannotProfile(f"{name} ended while it started; what it said is above")
        try:
            response = stub.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
        except grpc.RpcError:
            response = None
        if response and response.status == health_pb2.HealthCheckResponse.SERVING:
            return
        time.sleep(_POLL_S)
    raise CannotProfile(f"{name} did not serve within {_START_TIMEOUT_S:g} s")


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((_LOOPBACK, 0))
        return [one.getsockname()[1] for one in sockets]
