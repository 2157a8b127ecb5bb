"""Real processes with timed engines, supervised as `sangsang up` does it, and a load upon them."""

import asyncio
import fcntl
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from meshes import reason_of, until

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc
from sangsang.orchestrator.local_mesh import ChildEnd, LocalMesh
from sangsang.orchestrator.supervision import RestartPolicy
from sangsang.services.runtime.engines.timed_device import device_path

ROOT = Path(__file__).parents[2]
POCKET = ROOT / "deploy" / "models" / "pocket"
SERVICE_CONFIG = ROOT / "protos/sangsang/imaging/v1/image_generation_service_config.json"
MODULES = ("text_encoder", "vae_encoder", "vae_decoder")
STEP_SECONDS = {"1": 0.05, "8": 0.06}
# Between two calls of a caller: the mesh is to be busy, not the cores that its processes start on.
PAUSE_S = 0.1
# A test restarts more often than is sound, and does not want to wait for it.
RESTARTS = RestartPolicy(first_delay_s=0.05, longest_delay_s=0.1, limit=1000)
# Seeds of the load: few, so that the same picture is made before, during and after a fault.
SEEDS = range(1, 13)
# A busy machine may take long to start a process; nothing here waits for so long otherwise.
PATIENCE_S = 100.0


def write_profile(folder: Path, step_seconds: dict[str, float] = STEP_SECONDS) -> Path:
    """A device that takes next to nothing, but for the UNet."""
    path = folder / "profile.json"
    seconds = {**{name: {"1": 0.001} for name in MODULES}, "unet": step_seconds}
    fields = {"device": "a device", "precision": "f16", "seconds": seconds}
    path.write_text(json.dumps({**fields, "rates": {"1": 1.0, "2": 0.6}}))
    return path


@dataclass
class SupervisedMesh:
    """A mesh whose processes are started again when they end."""

    mesh: LocalMesh
    devices: list[Path] = field(default_factory=list)
    ends: list[ChildEnd] = field(default_factory=list)

    def kill(self, name: str, signal_number: int) -> None:
        self.mesh.children[name].send_signal(signal_number)

    async def stop(self, name: str) -> None:
        """Stops a process, but not while it locks its timed device: no real one has such a lock."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                self.kill(name, signal.SIGSTOP)
                for _ in range(20):
                    await asyncio.sleep(0.01)
                    if all(map(_unlocked, self.devices)):
                        return
                self.kill(name, signal.SIGCONT)
                await asyncio.sleep(0.01)

    def pid(self, name: str) -> int:
        return self.mesh.children[name].pid

    async def serves(self, name: str, *, besides: int = 0) -> None:
        """Returns once a process of this name serves that is not the one of a process ID."""
        async with asyncio.timeout(PATIENCE_S):
            while self.pid(name) == besides:
                await asyncio.sleep(0.02)
            channel = grpc.aio.insecure_channel(self.mesh.stage_address(name))
            async with channel:
                stub = health_pb2_grpc.HealthStub(channel)
                while not await _serving(stub):
                    await asyncio.sleep(0.05)

    @asynccontextmanager
    async def load(self, caller_count: int = 12):
        """Callers who send one request after the other until the block is left."""
        async with open_client(self.mesh.address) as stub:
            load = Load(stub)
            callers = [asyncio.create_task(load.call_on(n)) for n in range(caller_count)]
            try:
                yield load
                load.stopping = True
                async with asyncio.timeout(PATIENCE_S):
                    await asyncio.gather(*callers)
            finally:
                for caller in callers:
                    caller.cancel()


def _unlocked(device: Path) -> bool:
    with device.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


async def _serving(stub) -> bool:
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
    except grpc.aio.AioRpcError:
        return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING


def open_client(address: str):
    """A client with the shipped service config that watches health, but does not retry."""
    config = json.loads(SERVICE_CONFIG.read_text("utf-8"))
    # What the mesh loses is to be seen.
    del config["methodConfig"]
    options = [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 300),
    ]

    @asynccontextmanager
    async def opened():
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            yield imaging_grpc.ImageGenerationServiceStub(channel)

    return opened()


def spec_of(seed: int, **fields) -> imaging.ImageSpec:
    fields = {"prompt": "a cat", "tier": imaging.TIER_FREE, "seed": seed, **fields}
    return imaging.ImageSpec(model_id="pocket", **fields)


@dataclass
class Failure:
    """How a call failed."""

    code: grpc.StatusCode
    reason: str
    details: str


@dataclass
class Load:
    """What callers have seen.

    Attributes:
        rounds: calls that have ended, by caller.
        pictures: the distinct bytes of the picture of each seed.
    """

    stub: imaging_grpc.ImageGenerationServiceStub
    done_count: int = 0
    rounds: Counter[int] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    pictures: dict[int, set[bytes]] = field(default_factory=dict)
    stopping: bool = False

    async def call_on(self, caller: int) -> None:
        number = caller
        while not self.stopping:
            await self.call(SEEDS[number % len(SEEDS)])
            self.rounds[caller] += 1
            await asyncio.sleep(PAUSE_S)
            number += 1

    async def call(self, seed: int) -> Failure | None:
        request = imaging.GenerateImagesRequest(spec=spec_of(seed))
        try:
            response = await self.stub.GenerateImages(
                request, timeout=PATIENCE_S, wait_for_ready=True
            )
        except grpc.aio.AioRpcError as error:
            failure = Failure(error.code(), reason_of(error), error.details() or "")
            self.failures.append(failure)
            return failure
        self.pictures.setdefault(seed, set()).add(response.images[0].data.content)
        self.done_count += 1
        return None

    async def more(self, count: int) -> None:
        """Returns once so many further calls are done."""
        wanted = self.done_count + count
        await until(lambda: self.done_count >= wanted, timeout_s=PATIENCE_S)

    async def everyone(self, count: int) -> None:
        """Returns once so many further calls of each caller have ended."""
        wanted = {caller: done + count for caller, done in self.rounds.items()}
        await until(
            lambda: all(self.rounds[caller] >= least for caller, least in wanted.items()),
            timeout_s=PATIENCE_S,
        )

    def check_pictures(self) -> None:
        """The same request gave the same bytes, wherever it ran."""
        assert {len(found) for found in self.pictures.values()} == {1}
        assert len(self.pictures) == len(SEEDS)


@contextmanager
def supervised_mesh(
    folder: Path, replica_count: int, environment: dict[str, str] | None = None
) -> Iterator[SupervisedMesh]:
    """A running mesh with so many replicas of each stage; its logs lie in the folder."""
    name = f"faults-{os.getpid()}-{folder.name}"
    devices = [device_path(f"{name}-{number}") for number in range(replica_count)]
    mesh = LocalMesh(
        [POCKET],
        cache_dir=folder / "cache",
        replicas=dict.fromkeys(
            ("text_encoding", "preprocessing", "diffusion", "postprocessing"), replica_count
        ),
        log_dir=folder / "logs",
        environment={
            "SANGSANG_BACKEND": "timed",
            "SANGSANG_TIMED_PROFILE": str(write_profile(folder)),
            "SANGSANG_REPLICA_ABSENCE_S": str(PATIENCE_S),
            "SANGSANG_MAX_QUEUED_S": "1000",
            **(environment or {}),
        },
        device_environment=lambda number: {"SANGSANG_TIMED_DEVICE": f"{name}-{number}"},
        restarts=RESTARTS,
    )
    stop = threading.Event()
    try:
        with mesh:
            running = SupervisedMesh(mesh, devices)

            def supervise() -> None:
                while not stop.wait(0.02):
                    running.ends.extend(mesh.supervise())

            supervisor = threading.Thread(target=supervise)
            supervisor.start()
            try:
                yield running
            finally:
                stop.set()
                supervisor.join()
                for child in mesh.children.values():
                    # One that a test has stopped could not be ended otherwise.
                    child.send_signal(signal.SIGCONT)
    finally:
        for device in devices:
            device.unlink(missing_ok=True)
