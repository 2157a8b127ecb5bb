"""What stock clients get for good requests, blocking and asyncio."""

import asyncio

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import triton_to_np_dtype

TYPED_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def extremes(datatype):
    """Returns a [2, 3] array with the ends of the datatype's range."""
    dtype = np.dtype(triton_to_np_dtype(datatype))
    if dtype.kind == "b":
        return np.array([[True, False, True], [False, False, True]])
    info = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    rest = [np.nan, np.inf, -0.0, 1.5] if dtype.kind == "f" else [0, 1, 2, 3]
    ends = np.array([info.min, info.max], dtype)
    return np.concatenate([ends, np.array(rest, dtype)]).reshape(2, 3)


def triton_input(client, name, datatype, array):
    tensor = client.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def scale_inputs(client, row_count=1):
    sample = np.tile(np.array([[1, 2]], np.float32), (row_count, 1))
    factor = np.full((row_count, 1), 2, np.float16)
    return [
        triton_input(client, "sample", "FP32", sample),
        triton_input(client, "factor", "FP16", factor),
    ]


async def test_the_blocking_client_reads_health_and_metadata(stage, in_thread):
    def read():
        with triton.InferenceServerClient(stage.address) as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready("scale")
            assert client.is_model_ready("scale", "1")
            assert not client.is_model_ready("scale", "2")
            assert not client.is_model_ready("unknown")
            server = client.get_server_metadata(as_json=True)
            model = client.get_model_metadata("scale", as_json=True)
            return server, model

    server, model = await in_thread(read)
    assert server == {
        "name": "sangsang-fake",
        "version": "0.1.0",
        "extensions": ["model_configuration", "statistics"],
    }
    assert model == {
        "name": "scale",
        "versions": ["1"],
        "platform": "numpy",
        "inputs": [
            {"name": "sample", "datatype": "FP32", "shape": ["-1", "2"]},
            {"name": "factor", "datatype": "FP16", "shape": ["-1", "1"]},
        ],
        "outputs": [
            {"name": "scaled", "datatype": "FP32", "shape": ["-1", "2"]},
            {"name": "row_sum", "datatype": "FP64", "shape": ["-1"]},
        ],
    }


async def test_a_stage_that_is_not_ready_says_so(stage, in_thread):
    stage.ready = False

    def read():
        with triton.InferenceServerClient(stage.address) as client:
            index = client.get_model_repository_index()
            states = {model.state for model in index.models}
            return client.is_server_live(), client.is_server_ready(), states

    assert await in_thread(read) == (True, False, {"UNAVAILABLE"})
    async with triton_aio.InferenceServerClient(stage.address) as client:
        assert not await client.is_model_ready("scale")


async def test_the_configuration_leaves_the_batch_out(stage):
    async with triton_aio.InferenceServerClient(stage.address) as client:
        config = (await client.get_model_config("scale")).config
        unbatched = (await client.get_model_config("unbatched")).config
        echo = (await client.get_model_config("echo_FP16")).config
    assert (echo.name, echo.backend, echo.max_batch_size) == ("echo_FP16", "numpy", 4)
    assert [(i.name, i.data_type, list(i.dims)) for i in echo.input] == [
        ("X", triton.model_config_pb2.TYPE_FP16, [-1])
    ]
    assert [list(o.dims) for o in echo.output] == [[-1]]
    assert "most_rows" not in echo.parameters
    # An output of it is nothing but a batch, for which Triton takes no limit.
    assert (config.name, config.max_batch_size) == ("scale", 0)
    assert [list(i.dims) for i in config.input] == [[-1, 2], [-1, 1]]
    assert [list(o.dims) for o in config.output] == [[-1, 2], [-1]]
    assert config.parameters["most_rows"].string_value == "4"
    assert list(config.version_policy.specific.versions) == [1]
    assert config.parameters["digest"].string_value == "d1ce57"
    assert (unbatched.max_batch_size, list(unbatched.input[0].dims)) == (0, [2, 3])


async def test_an_optional_input_may_be_left_out(stage):
    x, shift = np.ones((2, 3), np.float32), np.full((2, 1), 5, np.float32)
    inputs = [triton.InferInput(n, a.shape, "FP32") for n, a in (("X", x), ("shift", shift))]
    for tensor, array in zip(inputs, (x, shift), strict=True):
        tensor.set_data_from_numpy(array)
    async with triton_aio.InferenceServerClient(stage.address) as client:
        config = (await client.get_model_config("shift")).config
        without = await client.infer("shift", inputs[:1])
        shifted = await client.infer("shift", inputs)
    assert [tensor.optional for tensor in config.input] == [False, True]
    assert without.as_numpy("Y").tolist() == x.tolist()
    assert shifted.as_numpy("Y").tolist() == (x + 5).tolist()


async def test_the_index_lists_every_engine(stage, stub, requests):
    index = await stub.RepositoryIndex(requests.pb.RepositoryIndexRequest(ready=True))
    assert [model.name for model in index.models] == sorted(stage.served)
    assert {(model.state, model.version) for model in index.models} == {("READY", "1")}
    stage.ready = False
    index = await stub.RepositoryIndex(requests.pb.RepositoryIndexRequest(ready=True))
    assert not index.models


async def test_the_blocking_client_infers(stage, in_thread):
    def infer():
        with triton.InferenceServerClient(stage.address) as client:
            wanted = [triton.InferRequestedOutput("row_sum")]
            inputs = scale_inputs(triton)
            everything = client.infer("scale", inputs, request_id="7", timeout=5_000_000)
            return everything, client.infer("scale", inputs, outputs=wanted, model_version="1")

    everything, one = await in_thread(infer)
    assert everything.as_numpy("scaled").tolist() == [[2, 4]]
    assert everything.as_numpy("row_sum").tolist() == [6]
    response = everything.get_response()
    assert (response.id, response.model_name, response.model_version) == ("7", "scale", "1")
    assert [output.name for output in one.get_response().outputs] == ["row_sum"]


async def test_the_asyncio_client_infers_many_at_once(stage):
    async with triton_aio.InferenceServerClient(stage.address) as client:
        results = await asyncio.gather(
            *(client.infer("scale", scale_inputs(triton_aio, rows)) for rows in (1, 4))
        )
    assert [result.as_numpy("scaled").shape for result in results] == [(1, 2), (4, 2)]


@pytest.mark.parametrize("datatype", [*TYPED_FIELDS, "FP16"])
async def test_raw_elements_come_back_as_they_went(stage, datatype):
    sent = extremes(datatype)
    async with triton_aio.InferenceServerClient(stage.address) as client:
        inputs = [triton_input(triton_aio, "X", datatype, sent)]
        got = (await client.infer(f"echo_{datatype}", inputs)).as_numpy("Y")
    assert got.dtype == sent.dtype
    assert got.tobytes() == sent.tobytes()


@pytest.mark.parametrize("datatype", TYPED_FIELDS)
async def test_typed_elements_come_back_raw(stub, requests, datatype):
    sent = extremes(datatype)
    request = requests.echo([2, 3], None, name=f"echo_{datatype}")
    contents = request.inputs[0].contents
    getattr(contents, TYPED_FIELDS[datatype]).extend(sent.ravel().tolist())
    response = await stub.ModelInfer(request, timeout=5)
    np.testing.assert_array_equal(
        np.frombuffer(response.raw_output_contents[0], sent.dtype).reshape(2, 3), sent
    )


async def test_any_byte_but_zero_is_true(stub, requests):
    request = requests.echo([1, 3], b"\x00\x01\xfe", name="echo_BOOL")
    response = await stub.ModelInfer(request, timeout=5)
    assert response.raw_output_contents[0] == b"\x00\x01\x01"


async def test_an_engine_without_a_batch_takes_its_exact_shape(stub, requests):
    request = requests.echo([2, 3], bytes(24), name="unbatched")
    assert (await stub.ModelInfer(request, timeout=5)).outputs[0].shape == [2, 3]


async def test_hints_of_other_clients_are_skipped(stub, requests):
    request = requests.good()
    request.parameters["content_type"].string_param = "np"
    request.parameters["priority"].uint64_param = 0
    request.inputs[0].parameters["binary_data_size"].int64_param = 8
    request.outputs.add(name="scaled").parameters["binary_data"].bool_param = True
    assert len((await stub.ModelInfer(request, timeout=5)).outputs) == 1


async def test_statistics_split_the_time(stage, stub, requests):
    slow = [
        asyncio.ensure_future(stub.ModelInfer(requests.echo([2, 1], bytes(8), name="slow")))
        for _ in range(2)
    ]
    await stage.pending(2)
    await asyncio.sleep(0.2)
    stage.gate.set()
    await asyncio.gather(*slow)
    async with triton_aio.InferenceServerClient(stage.address) as client:
        (stats,) = (await client.get_inference_statistics("slow", as_json=False)).model_stats
        everyone = (await client.get_inference_statistics()).model_stats
    assert (stats.version, stats.inference_count, stats.execution_count) == ("1", 4, 2)
    times = stats.inference_stats
    assert (times.success.count, times.fail.count, times.queue.count) == (2, 0, 2)
    # One of the two was computing while the gate was shut, and the other waited for it.
    assert times.compute_infer.ns > 100_000_000
    assert times.queue.ns > 100_000_000
    parts = (times.queue, times.compute_input, times.compute_infer, times.compute_output)
    assert times.success.ns == sum(part.ns for part in parts)
    (batch,) = stats.batch_stats
    assert (batch.batch_size, batch.compute_infer.count) == (2, 2)
    assert stats.last_inference > 1_600_000_000_000
    assert [model.name for model in everyone] == sorted(stage.served)


async def test_statistics_count_failures_but_not_refusals(stage, stub, requests, refused):
    await refused(requests.echo([1, 1], bytes(4), name="crashing"))
    await refused(requests.echo([1, 1], bytes(3), name="crashing"))
    request = requests.pb.ModelStatisticsRequest(name="crashing")
    (stats,) = (await stub.ModelStatistics(request)).model_stats
    assert (stats.inference_stats.success.count, stats.inference_stats.fail.count) == (0, 1)
    assert stats.inference_count == 0


async def test_a_stream_answers_in_order_and_outlives_an_error(stage, in_thread):
    def stream():
        answers = []
        client = triton.InferenceServerClient(stage.address)
        client.start_stream(callback=lambda result, error: answers.append((result, error)))
        for model, request_id in (("scale", "a"), ("unknown", "b"), ("crashing", "c")):
            client.async_stream_infer(model, stream_inputs(model), request_id=request_id)
        client.async_stream_infer("scale", scale_inputs(triton), request_id="d")
        client.stop_stream()
        client.close()
        return answers

    def stream_inputs(model):
        if model == "crashing":
            return [triton_input(triton, "X", "FP32", np.ones((1, 1), np.float32))]
        return scale_inputs(triton)

    answers = await in_thread(stream)
    assert [error is None for _, error in answers] == [True, False, False, True]
    good = answers[3][0].get_response()
    assert (good.id, good.parameters["triton_final_response"].bool_param) == ("d", True)
    assert "'unknown' is not served here" in str(answers[1][1])
    assert "secret" not in str(answers[2][1])


async def test_a_fatal_error_ends_a_stream(stub, requests):
    async def two():
        yield requests.echo([1, 1], bytes(4), name="dying")
        yield requests.good()

    with pytest.raises(grpc.aio.AioRpcError):
        _ = [answer async for answer in stub.ModelStreamInfer(two(), timeout=5)]


async def test_a_reply_beyond_the_default_limit_needs_a_larger_one(stage, stub, requests):
    request = requests.echo([1, 1], bytes(4), name="wide")
    # gRPC's own default is 4 MiB for what a client takes.
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(request, timeout=5)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    async with triton_aio.InferenceServerClient(stage.address) as client:
        inputs = [triton_input(triton_aio, "X", "FP32", np.ones((1, 1), np.float32))]
        assert (await client.infer("wide", inputs)).as_numpy("Y").nbytes == 5 * 2**20
