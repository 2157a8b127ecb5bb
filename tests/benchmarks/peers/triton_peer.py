"""NVIDIA Triton Inference Server 2.51: our engines in its Python backend, two ways to batch.

The binary is the one in the wheel `nvidia-pytriton==0.7.0`. `ensemble` has one diffusion model for
each tier with dynamic batching: whole requests of one tier share a batch, and the models run side
by side. `sequence` has one diffusion model whose requests are scheduled anew after each step.
"""

import asyncio
import itertools
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
from tritonclient.grpc import InferenceServerClient
from tritonclient.grpc import aio as tritonclient
from tritonclient.utils import InferenceServerException

from .contender import Refused, Reply, Site
from .engines import ENGINES_VARIABLE
from .load import START_SHARE, Ask
from .processes import LOOPBACK, Server, free_port, link_namespace
from .triton_repository import write_repository


@dataclass
class TritonContender:
    """A server with one of the two repositories."""

    name: str
    settings: str
    client: str
    iterative: bool
    row_limit: int
    _server: Server | None = None
    _shared_memory: str = ""
    _place: Path = field(default_factory=Path)

    def start(self, site: Site) -> str:
        self._place = site.place / self.name
        repository = self._place / "models"
        shutil.rmtree(self._place, ignore_errors=True)
        repository.mkdir(parents=True)
        write_repository(
            repository, len(site.choice.devices), self.row_limit, iterative=self.iterative
        )
        port = free_port()
        self._shared_memory = f"peers-{os.getpid()}-{port}-"
        venv = site.environments["triton"]
        self._server = Server(
            _command(venv, repository, port, self._shared_memory),
            _environment(venv, site),
            self._place / "triton.log",
        )
        address = f"{LOOPBACK}:{port}"
        self._server.wait_until(lambda: _is_ready(address))
        return address

    def process_ids(self) -> list[int]:
        return [] if self._server is None else [self._server.process.pid]

    def stop(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.stop()
        # A server that is killed leaves its shared memory behind.
        for region in Path("/dev/shm").glob(f"{self._shared_memory}*"):
            region.unlink()


def ensemble(row_limit: int = 8) -> TritonContender:
    """Returns the ensemble with dynamic batching."""
    text = (
        "ensemble text -> diffusion -> decode; a diffusion model for each tier; dynamic batching "
        f"to {row_limit} rows, no queue delay; an instance of each model for each device; requests "
        "too late are rejected in the queue"
    )
    return TritonContender("triton-ensemble", text, "triton_peer", False, row_limit)


def sequence(row_limit: int = 8) -> TritonContender:
    """Returns the iterative sequence."""
    text = (
        "ensemble text -> diffusion -> decode; diffusion is an iterative sequence that is "
        f"scheduled anew after each step, oldest first, {row_limit // 2} requests in a step; an "
        "instance of each model for each device"
    )
    return TritonContender("triton-sequence", text, "triton_peer", True, row_limit)


def _command(venv: Path, repository: Path, port: int, prefix: str) -> Sequence[str | Path]:
    server = _site(venv) / "pytriton" / "tritonserver"
    backends = repository.parent / "backends"
    _link_backend(server, venv, backends / "python")
    return (
        server / "bin" / "tritonserver",
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        f"--grpc-port={port}",
        f"--grpc-address={LOOPBACK}",
        "--allow-http=false",
        "--allow-metrics=false",
        "--exit-timeout-secs=5",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
    )


def _environment(venv: Path, site: Site) -> dict[str, str]:
    python = (venv / "bin" / "python").resolve()
    packages = _site(venv)
    return {
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
        "VIRTUAL_ENV": str(venv),
        "PYTHONPATH": str(packages),
        "LD_LIBRARY_PATH": f"{packages / 'nvidia_pytriton.libs'}:{python.parent.parent / 'lib'}",
        "OMP_NUM_THREADS": "1",
        ENGINES_VARIABLE: site.choice.to_json(),
    }


def _site(venv: Path) -> Path:
    return next((venv / "lib").glob("python3.*")) / "site-packages"


def _link_backend(server: Path, venv: Path, target: Path) -> None:
    """Puts the Python backend, the stub for this Python and our code where the server looks."""
    target.mkdir(parents=True)
    # The stub takes no PYTHONPATH, but its own folder is on its path.
    link_namespace(target)
    version = _site(venv).parent.name.removeprefix("python")
    stub = server / "python_backend_stubs" / version
    for file in (*(server / "backends" / "python").iterdir(), *stub.iterdir()):
        if file.is_file():
            (target / file.name).symlink_to(file)


def _is_ready(address: str) -> bool:
    with InferenceServerClient(address) as client, suppress(InferenceServerException):
        return bool(client.is_server_ready(client_timeout=1.0))
    return False


class TritonClient:
    """Calls the ensemble of a tier; every request is a sequence of its own."""

    def __init__(self, address: str, model_id: str) -> None:
        self._client = tritonclient.InferenceServerClient(address)
        self._numbers = itertools.count(1)

    async def picture(self, ask: Ask, *, previews: bool = False) -> Reply:
        patience = ask.patience_s
        call = self._client.infer(
            f"pocket_{ask.tier}",
            [
                _input("PROMPT", np.array([[ask.prompt.encode()]], np.object_), "BYTES"),
                _input("TIER", np.array([[ask.tier.encode()]], np.object_), "BYTES"),
                _input("SEED", np.array([[ask.seed]], np.int64), "INT64"),
            ],
            # With an end as well, it hangs: triton-inference-server/server, issue 8167.
            sequence_id=next(self._numbers),
            sequence_start=True,
            timeout=None if patience is None else int(START_SHARE * patience * 1e6),
            client_timeout=patience,
        )
        try:
            result = await call
        except InferenceServerException as error:
            raise _told(error) from error
        return Reply(result.as_numpy("PICTURE")[0, 0])

    async def close(self) -> None:
        await self._client.close()


def _input(name: str, array: np.ndarray, datatype: str) -> tritonclient.InferInput:
    tensor = tritonclient.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def _told(error: InferenceServerException) -> BaseException:
    status = str(error.status())
    if "DEADLINE_EXCEEDED" in status:
        return TimeoutError(error.message())
    if "CANCELLED" in status:
        return asyncio.CancelledError()
    if status == str(grpc.StatusCode.UNAVAILABLE):
        # Its way to say that a queue is full, or that a request waited past its time.
        return Refused(error.message())
    return error


connect = TritonClient
