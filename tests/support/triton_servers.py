"""A real NVIDIA Triton Inference Server in a process of its own, serving modules of our models.

The binary is the one inside the wheel `nvidia-pytriton==0.7.0` (Triton 2.51, which has the Python
backend and no other). The wheel wants numpy below 2 and so lies in an environment of its own,
together with onnxruntime: `.venv-triton`, which `make test` prepares, or the one that
`SANGSANG_TEST_TRITON_VENV` names.
"""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from sangsang.services.runtime.engines.cache import EngineCache
from sangsang.services.runtime.model_repository.hosts import host
from sangsang.services.runtime.model_repository.repository import write_module
from sangsang.services.runtime.models.folder import ModelFolder, ModuleName

VENV_VARIABLE = "SANGSANG_TEST_TRITON_VENV"
VENV = Path(__file__).parents[2] / ".venv-triton"
SHARED_MEMORY = Path("/dev/shm")
# Below the ports that the system gives to connections: while a server is down nobody takes its own.
PORTS = range(20_000, 32_000)
START_LIMIT_S = 90.0
STOP_LIMIT_S = 15.0


class NoServer(Exception):
    """There is no environment with a server; the message says why."""


def find_venv() -> Path:
    """Returns the environment with the server.

    Raises:
        NoServer: it has not been prepared, or cannot be on this machine.
    """
    if named := os.environ.get(VENV_VARIABLE):
        return Path(named)
    if (VENV / ".ready").is_file():
        return VENV
    refused = VENV / "unavailable"
    why = refused.read_text("utf-8").strip() if refused.is_file() else "`make triton` prepares it"
    raise NoServer(f"there is no NVIDIA Triton Inference Server in {VENV.name}: {why}")


def require_venv() -> Path:
    """Returns the environment with the server; skips the test where there is none."""
    try:
        return find_venv()
    except NoServer as exc:
        pytest.skip(str(exc))


def write_model(
    repository: Path,
    folder: ModelFolder,
    module: ModuleName,
    cache_dir: Path,
    **changes: object,
) -> None:
    """Writes a module into a model repository as it is exported, but for some attributes."""
    hosted = host(folder, module, backend="python", cache=EngineCache(cache_dir))
    write_module(replace(hosted, **changes), repository)


class TritonServer:
    """The process; `start` and `stop` may be called in turn, on the same port."""

    def __init__(self, venv: Path, repository: Path, place: Path) -> None:
        self._venv, self._repository, self._place = venv, repository, place
        self._log = place / "triton.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._port = _free_port()
        # Of its own shared memory, which it leaves behind when it is killed.
        self.prefix = f"triton-under-test-{os.getpid()}-{self._port}-"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def process_ids(self) -> list[int]:
        """Of the server and its children, which are its process group."""
        leader = None if self._process is None else self._process.pid
        found: list[int] = []
        for path in Path("/proc").glob("[0-9]*"):
            # One that has ended meanwhile is in no group.
            with suppress(ProcessLookupError):
                if os.getpgid(int(path.name)) == leader:
                    found.append(int(path.name))
        return found

    def start(self) -> None:
        site = next((self._venv / "lib").glob("python3.*")) / "site-packages"
        server = site / "pytriton" / "tritonserver"
        python = (self._venv / "bin" / "python").resolve()
        stub = server / "python_backend_stubs" / site.parent.name.removeprefix("python")
        backends = self._place / "backends"
        _link_backend(server, stub, backends)
        libraries = f"{site / 'nvidia_pytriton.libs'}:{python.parent.parent / 'lib'}"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    server / "bin" / "tritonserver",
                    f"--model-repository={self._repository}",
                    f"--backend-directory={backends}",
                    f"--grpc-port={self._port}",
                    "--grpc-address=127.0.0.1",
                    "--allow-http=false",
                    "--allow-metrics=false",
                    "--exit-timeout-secs=5",
                    f"--backend-config=python,shm-region-prefix-name={self.prefix}",
                ],
                env={
                    "ORT_DISABLE_TELEMETRY": "1",
                    "PATH": f"{self._venv / 'bin'}:{os.environ['PATH']}",
                    "VIRTUAL_ENV": str(self._venv),
                    "PYTHONPATH": str(site),
                    "LD_LIBRARY_PATH": libraries,
                    "OMP_NUM_THREADS": "1",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_until_ready()

    def stop(self, *, kill: bool = False) -> None:
        """Ends the server and its children, by their process group."""
        process, self._process = self._process, None
        if process is None:
            return
        if not kill:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                kill = True
        # The group is this server's own; its stubs outlive a server that was killed.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_LIMIT_S)
        for region in SHARED_MEMORY.glob(f"{self.prefix}*"):
            region.unlink()

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_LIMIT_S
        with InferenceServerClient(self.address) as client:
            while time.monotonic() < deadline:
                if self._process.poll() is not None:
                    break
                try:
                    if client.is_server_ready(client_timeout=1.0):
                        return
                except InferenceServerException:
                    pass
                time.sleep(0.2)
        self.stop(kill=True)
        tail = self._log.read_text(errors="replace")[-3000:]
        raise AssertionError(f"Triton did not become ready:\n{tail}")


def _link_backend(server: Path, stub: Path, backends: Path) -> None:
    """Puts the Python backend and the stub for this Python where the server looks for both."""
    target = backends / "python"
    if target.exists():
        return
    target.mkdir(parents=True)
    for file in (*(server / "backends" / "python").iterdir(), *stub.iterdir()):
        if file.is_file():
            (target / file.name).symlink_to(file)


def _free_port() -> int:
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"all ports from {PORTS.start} to {PORTS.stop} are taken")


def _regions(server: TritonServer) -> set[str]:
    """Names of what our client and a server may leave in the system's shared memory."""
    prefixes = ("sangsang-region-", server.prefix)
    return {path.name for path in SHARED_MEMORY.iterdir() if path.name.startswith(prefixes)}


def _assert_nothing_left(server: TritonServer, before: set[str]) -> None:
    # Clients in other tests on this machine have regions too, each for a moment.
    deadline = time.monotonic() + STOP_LIMIT_S
    while left := _regions(server) - before:
        assert time.monotonic() < deadline, f"left in {SHARED_MEMORY}: {sorted(left)}"
        time.sleep(0.1)


@contextmanager
def triton_server(
    folder: ModelFolder,
    modules: Mapping[ModuleName, Mapping[str, object]],
    cache_dir: Path,
    place: Path,
) -> Iterator[TritonServer]:
    """A running server of some modules; each with changes for `write_model`."""
    require_venv()
    repository = place / "models"
    repository.mkdir(parents=True)
    for module, changes in modules.items():
        write_model(repository, folder, module, cache_dir, **changes)
    with running_server(repository, place) as server:
        yield server


@contextmanager
def running_server(repository: Path, place: Path) -> Iterator[TritonServer]:
    """A running server of a model repository; its log and what else it needs go to `place`.

    It ends with the block, and nothing may be left in shared memory then.
    """
    server = TritonServer(require_venv(), repository, place)
    before = _regions(server)
    try:
        server.start()
        yield server
    finally:
        server.stop()
    _assert_nothing_left(server, before)


def perf_analyzer(*arguments: str) -> tuple[list[str], dict[str, str]]:
    """NVIDIA's load generator: command and environment; skips the test where there is none."""
    venv = require_venv()
    program = venv / "bin" / "perf_analyzer"
    if not program.is_file():
        pytest.skip(f"there is no perf_analyzer in {venv.name}: `make triton` prepares it")
    return [str(program), *arguments], {"LD_LIBRARY_PATH": str(venv / "perf_analyzer_libraries")}
