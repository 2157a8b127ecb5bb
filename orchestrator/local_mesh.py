"""The whole mesh on this machine: child processes on loopback, five of them or more.

Used by `sangsang up`, by `sangsang generate --local`, and by whoever needs a real mesh for a while.
Every child is a process of its own, started with `python -m`, told its settings by environment
variables, and ended by its process ID. One that ends by itself is started again by `supervise`.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..services.runtime.calls import open_channel
from ..services.runtime.errors import StageUnavailable
from ..services.runtime.settings import MEBIBYTE, OTLP_VARIABLES
from .service import wait_until_serving
from .supervision import RestartPolicy, RestartRecord

LOOPBACK = "127.0.0.1"
STAGES = ("text_encoding", "preprocessing", "diffusion", "postprocessing")
STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class MeshProcess:
    """One child.

    Attributes:
        name: `orchestrator`, a stage, or a further replica of one, e.g. `diffusion-2`.
        start_seconds: from its start until it said SERVING.
    """

    name: str
    port: int
    process: "subprocess.Popen[bytes]"
    start_seconds: float

    @property
    def memory_mib(self) -> float:
        """Resident memory now, in MiB; 0 where the system does not tell."""
        status = Path(f"/proc/{self.process.pid}/status")
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return 0.0
        kib = [int(line.split()[1]) for line in lines if line.startswith("VmRSS:")]
        return sum(kib) / 1024


@dataclass(frozen=True, slots=True)
class ChildEnd:
    """A child has ended by itself.

    Attributes:
        name: of the child.
        code: its exit status; negative for the number of a signal.
        delay_s: when it will be started again; None if it has ended too often.
    """

    name: str
    code: int
    delay_s: float | None


class LocalMesh:
    """A running mesh; use it as a context manager.

    Args:
        models: model folders to serve; their engines must be built.
        cache_dir: where built engines lie.
        replicas: how many of each stage; one of those that are not named. Each diffusion replica
            is a device.
        port_base: port of the orchestrator; the others take the next ones. 0 takes free ones.
        metrics_port: port of the orchestrator's metrics; those of the others take the next ones.
            0 serves none. They are served on loopback alone.
        log_dir: where each process writes its log; None leaves them on this process's stderr.
        environment: further variables for the children.
        stage_environment: further variables for the replicas of a stage, by its name.
        device_environment: variables for the stage replicas of one device, by its number from 0.
        on_ready: called for each process once it serves.
        restarts: how often and how soon `supervise` starts a child again.
    """

    def __init__(
        self,
        models: Sequence[Path],
        *,
        cache_dir: Path,
        replicas: Mapping[str, int] | None = None,
        port_base: int = 0,
        metrics_port: int = 0,
        log_dir: Path | None = None,
        environment: Mapping[str, str] | None = None,
        stage_environment: Mapping[str, Mapping[str, str]] | None = None,
        device_environment: Callable[[int], Mapping[str, str]] = lambda _: {},
        on_ready: Callable[[MeshProcess], None] = lambda _: None,
        restarts: RestartPolicy | None = None,
    ) -> None:
        names = ("orchestrator", *_replica_names(replicas or {}))
        free = free_ports(len(names))
        ports = [port_base + i for i in range(len(names))] if port_base else free
        self._ports: dict[str, int] = dict(zip(names, ports, strict=True))
        self._metrics_ports = {
            name: metrics_port + i if metrics_port else 0 for i, name in enumerate(names)
        }
        self._log_dir = log_dir
        self._on_ready = on_ready
        self._stage_environment = stage_environment or {}
        self._device_environment = device_environment
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._restarts = restarts or RestartPolicy()
        self._records: dict[str, RestartRecord] = {}
        self.processes: list[MeshProcess] = []
        self._environment = {
            **os.environ,  # children keep PATH and the like; settings are the SANGSANG_ ones
            "SANGSANG_MODELS": ":".join(str(path.resolve()) for path in models),
            "SANGSANG_CACHE_DIR": str(cache_dir),
            "SANGSANG_METRICS_HOST": LOOPBACK,
            **{f"SANGSANG_{stage.upper()}_ADDRESS": self._addresses(stage) for stage in STAGES},
            **(environment or {}),
        }

    @property
    def address(self) -> str:
        """`host:port` of the public API."""
        return f"{LOOPBACK}:{self._ports['orchestrator']}"

    @property
    def _collector(self) -> dict[str, str]:
        """Has a stage's traces go to the orchestrator, unless they go to a collector."""
        if any(self._environment.get(name) for name in OTLP_VARIABLES):
            return {}
        return {"SANGSANG_OTLP_ENDPOINT": f"http://{self.address}"}

    def metrics_address(self, name: str) -> str:
        """Returns `host:port` of a process's metrics; its port is 0 if it serves none."""
        return f"{LOOPBACK}:{self._metrics_ports[name]}"

    def stage_address(self, name: str) -> str:
        """Returns `host:port` of a stage's replica, e.g. `diffusion` or `diffusion-2`."""
        return f"{LOOPBACK}:{self._ports[name]}"

    def __enter__(self) -> "LocalMesh":
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def children(self) -> Mapping[str, "subprocess.Popen[bytes]"]:
        """The processes by name, as they are now."""
        return self._children

    def supervise(self) -> list[ChildEnd]:
        """Starts children again that have ended by themselves, each when it is its time.

        Call it every now and then.

        Returns:
            Those that were found to have ended, each once.
        """
        found: list[ChildEnd] = []
        now_s = time.monotonic()
        for name, child in self._children.items():
            code = child.poll()
            if code is None:
                continue
            record = self._records[name]
            if not record.ended:
                found.append(ChildEnd(name, code, record.note_end(now_s)))
            elif record.is_due(now_s):
                self._children[name] = self._spawn(name)
                record.note_start(now_s)
        return found

    def stop(self) -> None:
        """Drains the mesh: the orchestrator first, so that its requests can finish."""
        stages = [name for name in self._children if name != "orchestrator"]
        for names in (["orchestrator"], stages):
            children = [self._children[name] for name in names if name in self._children]
            for child in children:
                if child.poll() is None:
                    child.send_signal(signal.SIGTERM)
            for child in children:
                _wait_or_kill(child)

    def _start(self) -> None:
        started_at = time.perf_counter()
        for name in self._ports:
            self._children[name] = self._spawn(name)
            self._records[name] = RestartRecord(self._restarts, time.monotonic())
        asyncio.run(self._wait_for_all(started_at))

    def _spawn(self, name: str) -> "subprocess.Popen[bytes]":
        served = name != "orchestrator"
        module = f"sangsang.services.{_stage(name)}" if served else "sangsang.orchestrator"
        log = None
        if self._log_dir is not None:
            self._log_dir.mkdir(parents=True, exist_ok=True)
            log = (self._log_dir / f"{name}.log").open("ab")
        try:
            return subprocess.Popen(  # noqa: S603 our own modules, with our own interpreter
                [sys.executable, "-m", module],
                env={
                    **self._environment,
                    **self._stage_environment.get(_stage(name), {}),
                    **(self._device_environment(_number(name)) if served else {}),
                    **(self._collector if served else {}),
                    "SANGSANG_PORT": str(self._ports[name]),
                    "SANGSANG_METRICS_PORT": str(self._metrics_ports[name]),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C reaches this process alone, which then drains the children in order.
                start_new_session=True,
            )
        finally:
            if log is not None:
                log.close()

    async def _wait_for_all(self, started_at: float) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._wait_for(name, started_at)) for name in self._ports]
        self.processes = [task.result() for task in tasks]

    async def _wait_for(self, name: str, started_at: float) -> MeshProcess:
        address = f"{LOOPBACK}:{self._ports[name]}"
        channel = open_channel(address, max_message_bytes=MEBIBYTE)
        serving = asyncio.create_task(wait_until_serving(channel, name, 120.0))
        try:
            while not serving.done():
                await asyncio.wait([serving], timeout=0.1)
                if self._children[name].poll() is not None:
                    raise StageUnavailable(f"{name} ended while it started{self._log_hint(name)}")
            await serving
        finally:
            serving.cancel()
            await channel.close()
        seconds = time.perf_counter() - started_at
        process = MeshProcess(name, self._ports[name], self._children[name], seconds)
        self._on_ready(process)
        return process

    def _addresses(self, stage: str) -> str:
        names = [name for name in self._ports if _stage(name) == stage]
        return ",".join(self.stage_address(name) for name in names)

    def _log_hint(self, name: str) -> str:
        return "" if self._log_dir is None else f"; see {self._log_dir / name}.log"


def _replica_names(replicas: Mapping[str, int]) -> list[str]:
    """Returns the names of all replicas: the first of each stage, then the further ones."""
    if unknown := set(replicas) - set(STAGES):
        raise ValueError(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    further = [
        f"{stage}-{number}" for stage in STAGES for number in range(2, replicas.get(stage, 1) + 1)
    ]
    return [*STAGES, *further]


def _stage(name: str) -> str:
    return name.split("-")[0]


def _number(name: str) -> int:
    """Returns the place of a replica among those of its stage, from 0."""
    _, _, number = name.partition("-")
    return int(number) - 1 if number else 0


def _wait_or_kill(child: "subprocess.Popen[bytes]") -> None:
    try:
        child.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def free_ports(count: int) -> list[int]:
    """Returns ports of loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
