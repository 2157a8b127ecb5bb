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
from pathlib import Path

import numpy as np
import onnx
import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from sangsang.services.runtime.engines.adapter_bank import open_bank
from sangsang.services.runtime.engines.loading import find_build
from sangsang.services.runtime.engines.onnx_runtime import build_key
from sangsang.services.runtime.engines.signatures import signature
from sangsang.services.runtime.engines.weightless import GRAPH_NAME, read_weights
from sangsang.services.runtime.models.folder import ModelFolder, ModuleName
from sangsang.services.runtime.open_inference.datatypes import datatype_of

VENV_VARIABLE = "SANGSANG_TEST_TRITON_VENV"
VENV = Path(__file__).parents[2] / ".venv-triton"
SHARED_MEMORY = Path("/dev/shm")
# Below the ports that the system gives to connections: while a server is down nobody takes its own.
PORTS = range(20_000, 32_000)
START_LIMIT_S = 90.0
STOP_LIMIT_S = 15.0

# Runs inside the server, in the other environment: nothing of this repository is there.
_MODEL = """\
import json
import os

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        here = os.path.join(args["model_repository"], args["model_version"])
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(os.path.join(here, "model.onnx"), options)
        with np.load(os.path.join(here, "bank.npz")) as bank:
            self.bank = {name: bank[name] for name in bank.files}
        config = json.loads(args["model_config"])
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        feeds = {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in self.inputs
        }
        values = self.session.run(self.outputs, {**feeds, **self.bank})
        tensors = [pb_utils.Tensor(n, v) for n, v in zip(self.outputs, values)]
        return pb_utils.InferenceResponse(output_tensors=tensors)
"""


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
    *,
    max_batch_size: int = 0,
    digest: str | None = None,
) -> str:
    """Writes a module into a model repository of Triton; returns its name there.

    With a batch limit Triton wants a size beside the batch, which a UNet's `timestep` lacks.
    """
    name = f"{folder.model_id}.{folder.label(module)}"
    version = repository / name / "1"
    version.mkdir(parents=True)
    graph = find_build(folder, build_key(folder, module), cache_dir) / GRAPH_NAME
    model = onnx.load(graph, load_external_data=False)
    weights = read_weights(graph, folder.weights(module))
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
    onnx.save(model, version / "model.onnx")
    bank = open_bank(folder) if module == "unet" else None
    np.savez(version / "bank.npz", **(bank.arrays if bank else {}))
    (version / "model.py").write_text(_MODEL)
    wanted = signature(folder, module)
    wanted = wanted if bank is None else bank.signature(wanted)
    lines = [
        'backend: "python"',
        f"max_batch_size: {max_batch_size}",
        "instance_group [{ kind: KIND_CPU count: 1 }]",
        _parameter("digest", folder.digest(module) if digest is None else digest),
        _parameter("precision", "f32"),
    ]
    for kind, specs in (("input", wanted.inputs), ("output", wanted.outputs)):
        for spec in specs:
            dims = [-1 if size is None else size for size in spec.shape[bool(max_batch_size) :]]
            datatype = datatype_of(spec.dtype).config_name
            lines.append(f'{kind} [{{ name: "{spec.name}" data_type: {datatype} dims: {dims} }}]')
    (repository / name / "config.pbtxt").write_text("\n".join(lines) + "\n")
    return name


def _parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}'


class TritonServer:
    """The process; `start` and `stop` may be called in turn, on the same port."""

    def __init__(self, venv: Path, repository: Path, log: Path) -> None:
        self._venv, self._repository, self._log = venv, repository, log
        self._process: subprocess.Popen[bytes] | None = None
        self._port = _free_port()
        # Of its own shared memory, which it leaves behind when it is killed.
        self._prefix = f"triton-under-test-{os.getpid()}-{self._port}-"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        site = next((self._venv / "lib").glob("python3.*")) / "site-packages"
        server = site / "pytriton" / "tritonserver"
        python = (self._venv / "bin" / "python").resolve()
        stub = server / "python_backend_stubs" / site.parent.name.removeprefix("python")
        backends = self._repository.parent / "backends"
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
                    f"--backend-config=python,shm-region-prefix-name={self._prefix}",
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
        for region in SHARED_MEMORY.glob(f"{self._prefix}*"):
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


def _regions() -> set[str]:
    """Names of what our client and these servers may leave in the system's shared memory."""
    prefixes = ("sangsang-region-", "triton-under-test-")
    return {path.name for path in SHARED_MEMORY.iterdir() if path.name.startswith(prefixes)}


def _assert_nothing_left(before: set[str]) -> None:
    # Other tests on this machine have regions too, each for a moment.
    deadline = time.monotonic() + STOP_LIMIT_S
    while left := _regions() - before:
        assert time.monotonic() < deadline, f"left in {SHARED_MEMORY}: {sorted(left)}"
        time.sleep(0.1)


@contextmanager
def triton_server(
    folder: ModelFolder,
    modules: Mapping[ModuleName, Mapping[str, object]],
    cache_dir: Path,
    place: Path,
) -> Iterator[TritonServer]:
    """A running server of some modules; each with options of `write_model`.

    It ends with the block, and nothing may be left in shared memory then.
    """
    venv = require_venv()
    repository = place / "models"
    repository.mkdir(parents=True)
    for module, options in modules.items():
        write_model(repository, folder, module, cache_dir, **options)
    server = TritonServer(venv, repository, place / "triton.log")
    before = _regions()
    try:
        server.start()
        yield server
    finally:
        server.stop()
    _assert_nothing_left(before)
