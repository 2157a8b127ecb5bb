"""The same requests to NVIDIA's Triton 2.51 and to a stage of ours: where they answer alike or not.

What the README's table says of Triton is seen here. The engine is the VAE's decoder; Triton runs it
from an exported repository.

Run: make triton && pytest tests/contract/open_inference/test_beside_triton.py
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hosting import Spans, hosted
from triton_servers import triton_server
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from sangsang.services.postprocessing.servicer import PostprocessingStage
from sangsang.services.postprocessing.settings import PostprocessingSettings
from sangsang.services.runtime.models.folder import ModelFolder

POCKET = Path(__file__).parents[3] / "deploy" / "models" / "pocket"
NAME = "pocket.vae_decoder"
CHANNELS = 12
RAW = np.ones(CHANNELS * 4, np.float32).tobytes()
LIMIT_S = 20
OK, BAD, NOT_FOUND, INTERNAL = "OK", "INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL"
# 12 times so many floats are 0 bytes in 64 bits.
WRAPPING = 2**62


def good() -> Any:
    request = pb.ModelInferRequest(model_name=NAME)
    request.inputs.add(name="latents", datatype="FP32", shape=[1, CHANNELS, 2, 2])
    request.raw_input_contents.append(RAW)
    return request


def changed(change: Callable[[Any], object]) -> Any:
    request = good()
    change(request)
    return request


def shaped(*shape: int, raw_size: int = 0) -> Any:
    def change(request: Any) -> None:
        request.inputs[0].shape[:] = shape
        request.raw_input_contents[0] = bytes(raw_size)

    return changed(change)


def of_input(**fields: Any) -> Any:
    def change(request: Any) -> None:
        for name, value in fields.items():
            setattr(request.inputs[0], name, value)

    return changed(change)


def parameter(name: str, **value: Any) -> Any:
    def change(request: Any) -> None:
        for choice, content in value.items():
            setattr(request.parameters[name], choice, content)

    return changed(change)


def of_model(name: str, version: str = "") -> Any:
    named = pb.ModelInferRequest(model_name=name, model_version=version)
    return changed(lambda request: request.MergeFrom(named))


def twice(request: Any) -> None:
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(RAW)


def in_region(request: Any) -> None:
    parameters = request.inputs[0].parameters
    parameters["shared_memory_region"].string_param = "none"
    parameters["shared_memory_byte_size"].int64_param = len(RAW)
    del request.raw_input_contents[:]


def output_twice(request: Any) -> None:
    for _ in range(2):
        request.outputs.add(name="image")


def without_input(request: Any) -> None:
    del request.inputs[:], request.raw_input_contents[:]


# What is asked, what Triton answers and what we do.
ALIKE = {
    "good": (good(), OK),
    "an unknown model": (of_model("unknown"), NOT_FOUND),
    "a model by a path": (of_model("../../etc/passwd"), NOT_FOUND),
    "a model of spaces": (of_model(" .."), NOT_FOUND),
    "an unknown version": (of_model("", "2"), NOT_FOUND),
    "metadata of an unknown model": (pb.ModelMetadataRequest(name="unknown"), NOT_FOUND),
    "configuration of an unknown model": (pb.ModelConfigRequest(name="unknown"), NOT_FOUND),
    "whether an unknown model is ready": (pb.ModelReadyRequest(name="../unknown"), OK),
    "an unknown input": (of_input(name="x"), BAD),
    "no input": (changed(without_input), BAD),
    "an input twice": (changed(twice), BAD),
    "an unknown output": (changed(lambda r: r.outputs.add(name="x")), BAD),
    "another datatype": (of_input(datatype="INT32"), BAD),
    "an unknown datatype": (of_input(datatype="fp32"), BAD),
    "another rank": (shaped(1, CHANNELS, 4, raw_size=len(RAW)), BAD),
    "another fixed size": (shaped(1, CHANNELS + 1, 1, 1, raw_size=4 * CHANNELS + 4), BAD),
    "too large a batch": (shaped(9, CHANNELS, 1, 1, raw_size=36 * CHANNELS), BAD),
    "a negative size": (shaped(1, CHANNELS, -2, 2), BAD),
    "an empty batch": (shaped(0, CHANNELS, 2, 2), BAD),
    "too few bytes": (shaped(1, CHANNELS, 2, 2, raw_size=len(RAW) - 1), BAD),
    "too many bytes": (shaped(1, CHANNELS, 2, 2, raw_size=len(RAW) + 1), BAD),
    "no bytes": (changed(lambda r: r.raw_input_contents.pop()), BAD),
    "typed and raw": (changed(lambda r: r.inputs[0].contents.fp32_contents.append(1)), BAD),
    "a timeout in words": (parameter("timeout", string_param="5"), BAD),
}
UNLIKE = {
    # It reads the name up to there; and a long one it tells in trailers that no client takes.
    "a model with a null character": (of_model(f"{NAME}\0x"), OK, NOT_FOUND),
    "a model of 20,000 characters": (of_model("x" * 20_000), "RESOURCE_EXHAUSTED", NOT_FOUND),
    "more raw contents than inputs": (
        changed(lambda r: r.raw_input_contents.append(b"1234")),
        OK,
        BAD,
    ),
    "an output twice": (changed(output_twice), OK, BAD),
    # It reaches the engine, which fails.
    "a side of 0": (shaped(1, CHANNELS, 0, 2), INTERNAL, BAD),
    "a timeout of -5": (parameter("timeout", int64_param=-5), OK, BAD),
    "a sequence": (parameter("sequence_id", int64_param=1), OK, BAD),
    "a priority": (parameter("priority", uint64_param=1), OK, BAD),
    "a version in words": (of_model("", "x"), BAD, NOT_FOUND),
    "an unknown region": (changed(in_region), NOT_FOUND, BAD),
    "statistics of an unknown model": (
        pb.ModelStatisticsRequest(name="unknown"),
        BAD,
        NOT_FOUND,
    ),
    "a named repository": (
        pb.RepositoryIndexRequest(repository_name="other"),
        "UNIMPLEMENTED",
        BAD,
    ),
    "to load by a path": (
        pb.RepositoryModelLoadRequest(model_name="../../etc"),
        "UNAVAILABLE",
        "UNIMPLEMENTED",
    ),
    "a region by a path": (
        pb.SystemSharedMemoryRegisterRequest(name="x", key="/../../etc/passwd", byte_size=64),
        INTERNAL,
        "UNIMPLEMENTED",
    ),
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder, place = ModelFolder.open(POCKET), tmp_path_factory.mktemp("triton")
    modules = {"vae_decoder": {"max_batch_size": 4}, "vae_encoder": {}}
    with triton_server(folder, modules, place / "cache", place) as server:
        yield server


@pytest.fixture
async def ours(tmp_path):
    """The address of a stage."""
    settings = PostprocessingSettings(models=(POCKET,), cache_dir=tmp_path, lame_duck_s=0.0, port=0)
    async with hosted(PostprocessingStage(settings), settings, Spans()) as host:
        yield f"127.0.0.1:{host.port}"


def stub(channel):
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


async def code_of(address, request):
    """How a call ends, whose method is the one that takes the request."""
    method = type(request).__name__.removesuffix("Request")
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            await getattr(stub(channel), method)(request, timeout=LIMIT_S)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return OK


async def test_they_answer_alike_but_for_what_triton_lets_pass(theirs, ours):
    cases = {**{name: (one, code, code) for name, (one, code) in ALIKE.items()}, **UNLIKE}
    found = {}
    for name, (request, _, _) in cases.items():
        found[name] = [await code_of(address, request) for address in (theirs.address, ours)]
        # Whatever was asked, the next good request is answered.
        for address in (theirs.address, ours):
            assert await code_of(address, good()) == OK, name
    assert found == {name: codes for name, (_, *codes) in cases.items()}


async def test_they_compute_the_same(theirs, ours):
    answers = []
    for address in (theirs.address, ours):
        async with grpc.aio.insecure_channel(address) as channel:
            answers.append(await stub(channel).ModelInfer(good(), timeout=LIMIT_S))
    one, other = answers
    assert one.outputs[0].shape == other.outputs[0].shape == [1, 3, 16, 16]
    assert one.raw_output_contents == other.raw_output_contents


async def test_both_answer_an_error_in_its_place_in_a_stream(theirs, ours):
    async def three():
        for request in (good(), of_input(name="x"), good()):
            yield request

    for address in (theirs.address, ours):
        async with grpc.aio.insecure_channel(address) as channel:
            call = stub(channel).ModelStreamInfer(three(), timeout=LIMIT_S)
            failed = [bool(answer.error_message) async for answer in call]
        assert sorted(failed) == [False, False, True], address


async def test_both_have_standard_health(theirs, ours):
    for address in (theirs.address, ours):
        async with grpc.aio.insecure_channel(address) as channel:
            request = health_pb2.HealthCheckRequest()
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=LIMIT_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_triton_has_no_reflection(theirs):
    """A stage has: `test_stages.py`."""
    async with grpc.aio.insecure_channel(theirs.address) as channel:
        # As a unary call, which is answered before anything more is to be sent.
        call = channel.unary_unary("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", timeout=LIMIT_S)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_size_that_wraps_ends_triton_s_worker_for_good_and_not_ours(theirs, ours):
    """And Triton says that it is ready all the same."""
    request = shaped(1, CHANNELS, WRAPPING, 1)
    assert await code_of(ours, request) == BAD
    assert await code_of(ours, good()) == OK
    try:
        assert await code_of(theirs.address, request) == INTERNAL
        assert await code_of(theirs.address, good()) == INTERNAL
        async with grpc.aio.insecure_channel(theirs.address) as channel:
            ready = await stub(channel).ModelReady(pb.ModelReadyRequest(name=NAME), timeout=LIMIT_S)
        assert ready.ready
    finally:
        await asyncio.to_thread(theirs.stop, kill=True)
        await asyncio.to_thread(theirs.start)
    assert await code_of(theirs.address, good()) == OK
