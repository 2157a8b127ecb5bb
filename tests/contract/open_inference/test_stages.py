"""Stock clients against the four real stages: tritonclient in its three ways, and perf_analyzer.

Run: make triton && pytest tests/contract/open_inference/test_stages.py
"""

import asyncio
import csv
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hosting import Spans, hosted
from meshes import STAGES, mesh_in_process, until
from triton_servers import perf_analyzer
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from sangsang.services.runtime.building.export import example_inputs
from sangsang.services.runtime.engines.loading import load_engine
from sangsang.services.runtime.models.folder import ModelFolder
from sangsang.services.text_encoding.servicer import TextEncodingStage
from sangsang.services.text_encoding.settings import TextEncodingSettings

POCKET = Path(__file__).parents[3] / "deploy" / "models" / "pocket"
ENGINES = {
    "text_encoding": "text_encoder",
    "preprocessing": "vae_encoder",
    "diffusion": "unet",
    "postprocessing": "vae_decoder",
}
LIMIT_S = 60
# What perf_analyzer is told of each engine's sizes: random elements, but tokens are to be tokens.
CALLS = {
    "text_encoding": ("-b", "2", "--input-data", "zero"),
    "preprocessing": ("-b", "1", "--shape", "sample:3,32,32"),
    "diffusion": (
        *("--shape", "sample:2,12,4,4", "--shape", "timestep:2"),
        *("--shape", "encoder_hidden_states:2,77,192", "--shape", "adapter_scale:2,1"),
    ),
    "postprocessing": ("-b", "3", "--shape", "latents:12,4,4"),
}
WAYS = {"calls": ("--sync",), "stream": ("--async", "--streaming")}


@pytest.fixture(scope="module")
def folder():
    return ModelFolder.open(POCKET)


@pytest.fixture
async def mesh(tmp_path):
    async with mesh_in_process([POCKET], tmp_path / "cache") as running:
        yield running


def triton_inputs(client, arrays):
    made = []
    for name, array in arrays.items():
        made.append(client.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
        made[-1].set_data_from_numpy(array)
    return made


def by_blocking_client(address, name, arrays):
    with triton.InferenceServerClient(address) as client:
        assert client.is_model_ready(name)
        return client.infer(name, triton_inputs(triton, arrays), client_timeout=LIMIT_S)


def by_stream(address, name, arrays):
    answers = []
    with triton.InferenceServerClient(address) as client:
        client.start_stream(callback=lambda result, error: answers.append((result, error)))
        client.async_stream_infer(name, triton_inputs(triton, arrays))
        client.stop_stream()
    [(result, error)] = answers
    assert error is None, error
    return result


async def by_asyncio_client(address, name, arrays):
    async with triton_aio.InferenceServerClient(address) as client:
        return await client.infer(name, triton_inputs(triton_aio, arrays), client_timeout=LIMIT_S)


@pytest.mark.parametrize("stage", STAGES)
async def test_each_client_gets_the_bits_of_the_engine(mesh, folder, stage):
    address, module = f"127.0.0.1:{mesh.hosts[stage].port}", ENGINES[stage]
    engine, name = load_engine(folder, module), f"pocket.{module}"
    arrays = example_inputs(folder, module, 2, (4, 8))
    results = [
        await asyncio.to_thread(by_blocking_client, address, name, arrays),
        await asyncio.to_thread(by_stream, address, name, arrays),
        await by_asyncio_client(address, name, arrays),
    ]
    expected = engine.infer(arrays)
    for result in results:
        for spec in engine.outputs:
            np.testing.assert_array_equal(result.as_numpy(spec.name), expected[spec.name])
    async with triton_aio.InferenceServerClient(address) as client:
        [counted] = (await client.get_inference_statistics(name)).model_stats
        [listed] = (await client.get_model_repository_index()).models
    assert (counted.inference_stats.success.count, counted.inference_count) == (3, 6)
    assert (listed.name, listed.state) == (name, "READY")


@pytest.mark.parametrize("stage", STAGES)
async def test_each_stage_has_standard_health_and_reflection(mesh, stage):
    """Triton 2.51 has the former and answers the latter UNIMPLEMENTED."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{mesh.hosts[stage].port}") as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=LIMIT_S
        )
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        [answer] = [one async for one in call(iter([asked]), timeout=LIMIT_S)]
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    services = {service.name for service in answer.list_services_response.service}
    assert any(name.startswith("sangsang.stages.") for name in services)


@pytest.mark.parametrize("token", [-1, 3993, 2**62, -(2**63)])
async def test_a_token_beyond_the_vocabulary_is_the_caller_s_mistake(mesh, folder, token):
    address = f"127.0.0.1:{mesh.hosts['text_encoding'].port}"
    arrays = example_inputs(folder, "text_encoder", 1, (4, 4))
    await by_asyncio_client(address, "pocket.text_encoder", arrays)
    arrays["input_ids"][0, 3] = token
    with pytest.raises(InferenceServerException) as caught:
        await by_asyncio_client(address, "pocket.text_encoder", arrays)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert "at least 0 and below 3993" in caught.value.message()


async def test_what_outlasts_the_grace_is_unavailable(tmp_path, folder):
    """Not CANCELLED, which no policy retries; and the engine is not left running."""
    settings = TextEncodingSettings(
        models=(POCKET,), cache_dir=tmp_path, lame_duck_s=0.0, grace_s=0.2, port=0
    )
    stage, spans, gate = TextEncodingStage(settings), Spans(), threading.Event()
    async with hosted(stage, settings, spans) as host:
        [model] = stage._models.values()
        engine, started = stage._engine(model), threading.Event()
        infer = engine.infer

        def slow(inputs):
            started.set()
            gate.wait(LIMIT_S)
            return infer(inputs)

        engine.infer = slow
        address = f"127.0.0.1:{host.port}"
        arrays = example_inputs(folder, "text_encoder", 1, (4, 4))
        call = asyncio.ensure_future(by_asyncio_client(address, "pocket.text_encoder", arrays))
        await until(started.is_set)
        drained = asyncio.ensure_future(host.drain())
        with pytest.raises(InferenceServerException) as caught:
            await call
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
        gate.set()
        await asyncio.wait_for(drained, LIMIT_S)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stage", STAGES)
async def test_perf_analyzer_measures_each_engine(mesh, stage, way, tmp_path):
    address, name = f"127.0.0.1:{mesh.hosts[stage].port}", f"pocket.{ENGINES[stage]}"
    report = tmp_path / "report.csv"
    command, environment = perf_analyzer(
        *("-m", name, "-u", address, "-i", "grpc", "-f", str(report)),
        *("--concurrency-range", "2", "--request-count", "6", *CALLS[stage], *WAYS[way]),
    )
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), LIMIT_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()
    [row] = csv.DictReader(report.read_text().splitlines())
    # What it tells of the server's side is our statistics.
    assert float(row["Inferences/Second"]) > 0
    assert float(row["Server Compute Infer"]) > 0
    async with triton_aio.InferenceServerClient(address) as client:
        [counted] = (await client.get_inference_statistics(name)).model_stats
    assert counted.inference_stats.success.count >= 6
    assert counted.inference_stats.fail.count == 0
