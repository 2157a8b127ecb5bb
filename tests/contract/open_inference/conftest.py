"""A real server on loopback with engines that are a few lines of numpy."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from opentelemetry import trace
from tritonclient.grpc import service_pb2, service_pb2_grpc

from sangsang.services.runtime.engines.engine import Array, TensorSpec
from sangsang.services.runtime.errors import StageFailed
from sangsang.services.runtime.interceptors import CallInterceptor
from sangsang.services.runtime.open_inference import (
    ServedEngine,
    ServerIdentity,
    WorkerRunner,
    open_inference_handler,
)
from sangsang.services.runtime.running_calls import RunningCalls
from sangsang.services.runtime.worker import EngineWorker

MAX_MESSAGE_BYTES = 16 * 2**20
CALL_LIMIT_S = 10
DTYPES = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


@dataclass(frozen=True)
class FakeEngine:
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    compute: Callable[[Mapping[str, Array]], dict[str, Array]]
    backend: str = "numpy"
    precision: str = "f32"
    digest: str = "d1ce57"

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        for spec in self.inputs:
            if spec.optional and spec.name not in inputs:
                continue
            array = inputs[spec.name]
            # What the protocol promises to every engine.
            assert array.dtype == spec.dtype
            assert array.flags.c_contiguous
            assert array.flags.writeable
        return self.compute(inputs)

    def close(self) -> None:
        raise AssertionError("the engine belongs to the stage")


def spec(name: str, dtype: Any, *shape: int | None) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), shape)


@dataclass
class Stage:
    """A stage under test: what it serves, and the switches that a test may turn."""

    gate: threading.Event = field(default_factory=threading.Event)
    worker: EngineWorker = field(default_factory=lambda: EngineWorker("fake", max_pending=2))
    ready: bool = True
    served: dict[str, ServedEngine] = field(default_factory=dict)
    fatal_count: int = 0
    address: str = ""

    def add(self, engine: FakeEngine, *, max_batch_size: int = 4) -> None:
        self.served[engine.name] = ServedEngine(engine, WorkerRunner(self.worker), max_batch_size)

    def note_fatal(self) -> None:
        self.fatal_count += 1

    async def pending(self, count: int) -> None:
        """Waits until this many engine calls wait or run."""
        async with asyncio.timeout(CALL_LIMIT_S):
            while self.worker.pending_count != count:
                await asyncio.sleep(0.005)

    def stub(self, channel: grpc.aio.Channel) -> Any:
        return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def add_engines(stage: Stage) -> None:
    """Serves one good engine, an echo for each datatype, and one engine for each misfortune."""

    def scale(inputs: Mapping[str, Array]) -> dict[str, Array]:
        scaled = inputs["sample"] * inputs["factor"].astype(np.float32)
        return {"scaled": scaled, "row_sum": scaled.sum(axis=1, dtype=np.float64)}

    def wait(inputs: Mapping[str, Array]) -> dict[str, Array]:
        stage.gate.wait(CALL_LIMIT_S)
        return {"Y": inputs["X"]}

    def fail(error: Exception) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        def compute(_: Mapping[str, Array]) -> dict[str, Array]:
            raise error

        return compute

    x, y = spec("X", np.float32, None, None), spec("Y", np.float32, None, None)
    stage.add(
        FakeEngine(
            "scale",
            (spec("sample", np.float32, None, 2), spec("factor", np.float16, None, 1)),
            (spec("scaled", np.float32, None, 2), spec("row_sum", np.float64, None)),
            scale,
        )
    )
    shift = TensorSpec("shift", np.dtype(np.float32), (None, 1), optional=True)
    stage.add(
        FakeEngine(
            "shift", (x, shift), (y,), lambda inputs: {"Y": inputs["X"] + inputs.get("shift", 0)}
        )
    )
    for datatype, dtype in DTYPES.items():
        echo_x, echo_y = spec("X", dtype, None, None), spec("Y", dtype, None, None)
        name = f"echo_{datatype}"
        stage.add(FakeEngine(name, (echo_x,), (echo_y,), lambda inputs: {"Y": inputs["X"]}))
    fixed = (spec("X", np.float32, 2, 3), spec("Y", np.float32, 2, 3))
    stage.add(
        FakeEngine("unbatched", fixed[:1], fixed[1:], lambda inputs: {"Y": inputs["X"]}),
        max_batch_size=0,
    )
    wide = np.zeros((1, 5 * 2**18), np.float32)
    misfortunes = {
        "slow": wait,
        "crashing": fail(RuntimeError("secret path")),
        "refusing": fail(ValueError("secret path")),
        "dying": fail(StageFailed("the GPU is gone", fatal=True)),
        "silent": lambda _: {},
        "lying": lambda inputs: {"Y": inputs["X"].astype(np.float64)},
        "wide": lambda _: {"Y": wide},
    }
    for name, compute in misfortunes.items():
        stage.add(FakeEngine(name, (x,), (y,), compute))


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    served = Stage()
    add_engines(served)
    server = grpc.aio.server(
        interceptors=[
            CallInterceptor(trace.NoOpTracer(), RunningCalls(), on_fatal=served.note_fatal)
        ],
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ],
    )
    handler = open_inference_handler(
        lambda: served.served,
        ready=lambda: served.ready,
        identity=ServerIdentity("sangsang-fake", "0.1.0"),
    )
    server.add_generic_rpc_handlers((handler,))
    served.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield served
    served.gate.set()
    await server.stop(1)
    served.worker.close()


@pytest.fixture
async def stub(stage: Stage) -> AsyncIterator[Any]:
    """The generated stub of tritonclient: it sends what its own client would never make."""
    async with grpc.aio.insecure_channel(stage.address) as channel:
        yield stage.stub(channel)


class Requests:
    """Makes requests by hand."""

    pb = service_pb2

    def good(self, **changes: Any) -> Any:
        """Returns a request that `scale` answers with [[2, 4]]."""
        request = service_pb2.ModelInferRequest(model_name="scale", **changes)
        request.inputs.add(name="sample", datatype="FP32", shape=[1, 2])
        request.inputs.add(name="factor", datatype="FP16", shape=[1, 1])
        request.raw_input_contents.append(np.array([1, 2], np.float32).tobytes())
        request.raw_input_contents.append(np.array([2], np.float16).tobytes())
        return request

    def echo(self, shape: list[int], raw: bytes | None, *, name: str = "echo_FP32") -> Any:
        """Returns a request of one input; without `raw` it has no contents."""
        request = service_pb2.ModelInferRequest(model_name=name)
        request.inputs.add(name="X", datatype=name.removeprefix("echo_"), shape=shape)
        if not name.startswith("echo_"):
            request.inputs[0].datatype = "FP32"
        if raw is not None:
            request.raw_input_contents.append(raw)
        return request


@pytest.fixture
def requests() -> Requests:
    return Requests()


@dataclass(frozen=True)
class Refusal:
    """How a call ended: its code, its message and the bad fields by path."""

    code: grpc.StatusCode
    message: str
    fields: dict[str, str]
    detail_names: tuple[str, ...]


class Refused:
    """Calls the server and returns its refusal, then checks that it still answers."""

    def __init__(self, stub: Any, requests: Requests) -> None:
        self._stub = stub
        self._requests = requests

    async def __call__(self, request: Any, method: str = "ModelInfer") -> Refusal:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(self._stub, method)(request, timeout=CALL_LIMIT_S)
        await self.alive()
        error = caught.value
        status = rpc_status.from_call(error)
        fields: dict[str, str] = {}
        for detail in status.details if status else ():
            bad = error_details_pb2.BadRequest()
            if detail.Unpack(bad):
                fields = {v.field: v.description for v in bad.field_violations}
        names = tuple(d.type_url.rpartition(".")[2] for d in (status.details if status else ()))
        return Refusal(error.code(), error.details() or "", fields, names)

    async def bad_field(self, request: Any, field_path: str) -> str:
        """Returns the description of the one bad field of a request."""
        refusal = await self(request)
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT, refusal
        assert set(refusal.fields) == {field_path}, refusal
        return refusal.fields[field_path]

    async def alive(self) -> None:
        response = await self._stub.ModelInfer(self._requests.good(), timeout=1)
        assert np.frombuffer(response.raw_output_contents[0], np.float32).tolist() == [2, 4]


@pytest.fixture
def refused(stub: Any, requests: Requests) -> Refused:
    return Refused(stub, requests)


@pytest.fixture
def in_thread() -> Callable[..., Any]:
    """Runs a function of the blocking client beside the server's event loop."""

    async def run(function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.wait_for(asyncio.to_thread(function, *args), CALL_LIMIT_S)

    return run


@pytest.fixture
def stage_free_engine() -> Callable[..., ServedEngine]:
    """Makes a served engine of one input and no stage."""

    def make(dtype: Any, shape: tuple[int | None, ...], max_batch_size: int) -> ServedEngine:
        engine = FakeEngine("one", (spec("X", dtype, *shape),), (), dict)
        return ServedEngine(engine, WorkerRunner(None), max_batch_size)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def scale_engine() -> ServedEngine:
    """The engine `scale` for tests that need no server."""
    stage = Stage()
    add_engines(stage)
    return stage.served["scale"]
