"""What Triton 2.51 was seen to answer to bad requests, and what we answer: the table of the README.

After each refusal the same server answers a good request; `refused` sees to it.
"""

import asyncio

import grpc
import numpy as np
import pytest

BAD = grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(("name", "version"), [("unknown", ""), ("scale", "2"), ("", "")])
async def test_unknown_models_and_versions_are_not_found(refused, requests, name, version):
    pb = requests.pb
    calls = {
        "ModelInfer": pb.ModelInferRequest(model_name=name, model_version=version),
        "ModelMetadata": pb.ModelMetadataRequest(name=name, version=version),
        "ModelConfig": pb.ModelConfigRequest(name=name, version=version),
    }
    if name:
        calls["ModelStatistics"] = pb.ModelStatisticsRequest(name=name, version=version)
    for method, request in calls.items():
        refusal = await refused(request, method)
        assert refusal.code is grpc.StatusCode.NOT_FOUND, method
        assert "ResourceInfo" in refusal.detail_names
        assert (await refused._stub.ModelReady(pb.ModelReadyRequest(name=name))).ready is (
            name == "scale"
        )


async def test_a_model_is_unavailable_rather_than_unknown_while_the_stage_starts(
    stage, stub, requests
):
    stage.ready = False
    served, stage.served = stage.served, {}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(requests.good(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    stage.ready, stage.served = True, served
    assert await stub.ModelInfer(requests.good(), timeout=5)


async def test_a_named_repository_is_refused(refused, requests):
    request = requests.pb.RepositoryIndexRequest(repository_name="other")
    refusal = await refused(request, "RepositoryIndex")
    assert (refusal.code, set(refusal.fields)) == (BAD, {"repository_name"})


@pytest.mark.parametrize(
    "method",
    ["RepositoryModelLoad", "RepositoryModelUnload", "SystemSharedMemoryRegister",
     "SystemSharedMemoryStatus", "CudaSharedMemoryRegister", "TraceSetting", "LogSettings"],
)  # fmt: skip
async def test_what_is_not_served_is_unimplemented(refused, requests, method):
    refusal = await refused(getattr(requests.pb, f"{method}Request")(), method)
    assert refusal.code is grpc.StatusCode.UNIMPLEMENTED


async def test_unknown_inputs_and_outputs_are_named(refused, requests):
    request = requests.good()
    request.inputs[0].name = "smaple"
    refusal = await refused(request)
    assert refusal.code is BAD
    assert refusal.fields == {
        "inputs[0].name": "no input 'smaple'; inputs: sample, factor",
        "inputs": "sample is missing",
    }
    request = requests.good()
    request.outputs.add(name="row_mean")
    assert "scaled, row_sum" in await refused.bad_field(request, "outputs[0].name")


async def test_a_missing_input_is_named(refused, requests):
    request = requests.good()
    del request.inputs[1], request.raw_input_contents[1]
    assert await refused.bad_field(request, "inputs") == "factor is missing"


async def test_an_input_or_output_given_twice_is_refused(refused, requests):
    request = requests.good()
    request.inputs[1].CopyFrom(request.inputs[0])
    refusal = await refused(request)
    assert refusal.fields["inputs[1].name"] == "sample is named twice"
    request = requests.good()
    request.outputs.add(name="scaled")
    request.outputs.add(name="scaled")
    assert "twice" in await refused.bad_field(request, "outputs[1].name")


async def test_too_many_inputs_or_outputs_are_refused_by_number(refused, requests):
    request = requests.good()
    for index in range(10_000):
        request.inputs.add(name=f"x{index}", datatype="FP32", shape=[1, 2])
        request.raw_input_contents.append(bytes(8))
    assert await refused.bad_field(request, "inputs") == "expected 2, got 10002"
    request = requests.good()
    request.outputs.extend([requests.pb.ModelInferRequest.InferRequestedOutputTensor()] * 10_000)
    assert "at most 2" in await refused.bad_field(request, "outputs")


@pytest.mark.parametrize(
    ("datatype", "says"),
    [
        ("INT64", "expected FP32, got INT64"),
        ("FP16", "expected FP32, got FP16"),
        ("BF16", "BF16 has no numpy form and is not served; send FP16 or FP32"),
        ("BYTES", "BYTES is not served"),
        ("fp32", "unknown datatype 'fp32'"),
        ("", "unknown datatype ''"),
        ("FP32\0" * 1000, "unknown datatype 'FP32"),
    ],
)
async def test_another_datatype_is_refused(refused, requests, datatype, says):
    request = requests.good()
    request.inputs[0].datatype = datatype
    description = await refused.bad_field(request, "inputs[0].datatype")
    assert description.startswith(says)
    assert len(description) < 150


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ([2], "expected 2 dimensions, got 1"),
        ([], "expected 2 dimensions, got 0"),
        ([1] * 64, "expected 2 dimensions, got 64"),
        ([2**62] * 100_000, "expected 2 dimensions, got 100000"),
        ([1, 3], "dimension 1 is 3, must be 2"),
        ([1, 2**62], "dimension 1 is 4611686018427387904, must be 2"),
        ([0, 2], "dimension 0 is 0, must be at least 1"),
        ([-1, 2], "dimension 0 is -1, must be at least 1"),
        ([-(2**63), 2], "dimension 0 is -9223372036854775808, must be at least 1"),
        ([5, 2], "the batch is 5, must be at most 4"),
        ([2**62, 2], "the batch is 4611686018427387904, must be at most 4"),
    ],
)
async def test_another_shape_is_refused(refused, requests, shape, says):
    request = requests.good()
    request.inputs[0].shape[:] = shape
    assert await refused.bad_field(request, "inputs[0].shape") == says


async def test_batches_that_differ_are_refused(refused, requests):
    request = requests.good()
    request.inputs[1].shape[:] = [2, 1]
    request.raw_input_contents[1] = bytes(4)
    description = await refused.bad_field(request, "inputs[1].shape")
    assert description == "the batch is 2, but sample has 1"


@pytest.mark.parametrize(
    ("shape", "raw", "says"),
    [
        ([1, 4], bytes(15), "expected 16 bytes, got 15"),
        ([1, 4], bytes(17), "expected 16 bytes, got 17"),
        ([1, 4], b"", "expected 16 bytes, got 0"),
        # The sizes that wrap to 0 or to the length given, in 32 or 64 bits.
        ([1, 2**30], b"", "expected 4294967296 bytes, got 0"),
        ([1, 2**30 + 1], bytes(4), "expected 4294967300 bytes, got 4"),
        ([1, 2**62], b"", "expected 18446744073709551616 bytes, got 0"),
        ([1, 2**62 + 1], bytes(4), "expected 18446744073709551620 bytes, got 4"),
        ([4, 2**60], b"", "expected 18446744073709551616 bytes, got 0"),
        ([1, 2**31], bytes(8), "expected 8589934592 bytes, got 8"),
        ([1, 2**63 - 1], bytes(8), "expected 36893488147419103228 bytes, got 8"),
    ],
)
async def test_raw_contents_of_another_length_are_refused(refused, requests, shape, raw, says):
    request = requests.echo(shape, raw)
    assert await refused.bad_field(request, "raw_input_contents[0]") == says


@pytest.mark.parametrize("change", [-1, 1, 1000])
async def test_raw_contents_must_be_as_many_as_inputs(refused, requests, change):
    request = requests.good()
    if change < 0:
        del request.raw_input_contents[-1]
    request.raw_input_contents.extend([b""] * change)
    assert await refused.bad_field(request, "raw_input_contents")


async def test_typed_and_raw_together_are_refused(refused, requests):
    request = requests.good()
    request.inputs[0].contents.fp32_contents.extend([1, 2])
    assert "together" in await refused.bad_field(request, "inputs[0].contents")


@pytest.mark.parametrize(
    ("name", "field", "values", "says"),
    [
        ("echo_FP32", "fp32_contents", [1.0], "expected 2 elements, got 1"),
        ("echo_FP32", "fp32_contents", [1.0] * 3, "expected 2 elements, got 3"),
        ("echo_FP32", "fp32_contents", [], "expected 2 elements, got 0"),
        ("echo_FP32", "fp64_contents", [1.0] * 2, "FP32 belongs in fp32_contents"),
        ("echo_FP32", "bytes_contents", [b"ab"] * 2, "FP32 belongs in fp32_contents"),
        ("echo_FP16", "fp32_contents", [1.0] * 2, "FP16 has no typed form"),
        ("echo_INT8", "int_contents", [128, 0], "an element is out of the range of INT8"),
        ("echo_INT16", "int_contents", [0, -32769], "an element is out of the range of INT16"),
        ("echo_UINT8", "uint_contents", [256, 0], "an element is out of the range of UINT8"),
    ],
)
async def test_typed_contents_that_do_not_fit_are_refused(
    refused, requests, name, field, values, says
):
    request = requests.echo([1, 2], None, name=name)
    getattr(request.inputs[0].contents, field).extend(values)
    assert says in await refused.bad_field(request, "inputs[0].contents")


async def test_large_typed_contents_are_sent_to_raw(refused, requests):
    request = requests.echo([1, 2**18 + 1], None)
    request.inputs[0].contents.fp32_contents.extend([0.0] * (2**18 + 1))
    assert "send raw_input_contents" in await refused.bad_field(request, "inputs[0].contents")


async def test_everything_wrong_is_told_at_once_within_what_trailers_hold(refused, requests):
    request = requests.good()
    request.inputs[0].datatype = "FP64"
    request.inputs[0].shape[:] = [1, 0]
    request.inputs[1].shape[:] = [9, 1]
    refusal = await refused(request)
    assert set(refusal.fields) == {"inputs[0].datatype", "inputs[0].shape", "inputs[1].shape"}
    request = requests.good()
    request.inputs[0].name = request.inputs[1].name = "\N{GRINNING FACE}" * 100_000
    for key in ("sequence_id", "sequence_start", "sequence_end", "priority", "timeout"):
        request.parameters[key].string_param = "yes"
    refusal = await refused(request)
    assert (refusal.code, len(refusal.fields)) == (BAD, 7)


def set_timeout(request, **value):
    for field, number in value.items():
        setattr(request.parameters["timeout"], field, number)


@pytest.mark.parametrize(
    "value",
    [
        {"int64_param": -5},
        {"string_param": "5"},
        {"double_param": 5.0},
        {"bool_param": True},
    ],
)
async def test_a_timeout_that_is_none_is_refused(refused, requests, value):
    request = requests.good()
    set_timeout(request, **value)
    assert "microseconds" in await refused.bad_field(request, "parameters[timeout]")


@pytest.mark.parametrize(
    "value", [{"int64_param": 0}, {"uint64_param": 2**64 - 1}, {"int64_param": 2**63 - 1}]
)
async def test_a_timeout_may_be_zero_for_none_or_very_long(stub, requests, value):
    request = requests.good()
    set_timeout(request, **value)
    assert await stub.ModelInfer(request, timeout=5)


async def test_a_timeout_that_passes_is_a_deadline(stage, stub, requests):
    request = requests.echo([1, 1], bytes(4), name="slow")
    set_timeout(request, int64_param=50_000)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(request, timeout=5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    stats = requests.pb.ModelStatisticsRequest(name="slow")
    answer = await stub.ModelStatistics(stats)
    assert answer.model_stats[0].inference_stats.fail.count == 1


async def test_a_full_queue_is_exhausted_and_says_when_to_retry(stage, stub, requests, refused):
    slow = [
        asyncio.ensure_future(stub.ModelInfer(requests.echo([1, 1], bytes(4), name="slow")))
        for _ in range(2)
    ]
    await stage.pending(2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(requests.good(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(caught.value.trailing_metadata())
    assert b"RetryInfo" in trailers["grpc-status-details-bin"]
    stage.gate.set()
    await asyncio.gather(*slow)
    await refused.alive()


async def test_a_cancelled_call_leaves_the_queue(stage, stub, requests, refused):
    slow = asyncio.ensure_future(stub.ModelInfer(requests.echo([1, 1], bytes(4), name="slow")))
    await stage.pending(1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(requests.good(), timeout=0.1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await stage.pending(1)
    stage.gate.set()
    await slow
    await refused.alive()
    stats = await stub.ModelStatistics(requests.pb.ModelStatisticsRequest(name="scale"))
    assert stats.model_stats[0].execution_count == 1


async def test_hundreds_of_callers_that_leave_are_done_with(stage, stub, requests, refused):
    """At any moment of theirs, and twice as many as may wait."""
    stage.gate.set()
    for number in range(300):
        calls = [
            stub.ModelInfer(requests.echo([1, 1], bytes(4), name="slow"), timeout=5)
            for _ in range(4)
        ]
        await asyncio.sleep(0.0005 * (number % 7))
        for call in calls:
            call.cancel()
    await stage.pending(0)
    await refused.alive()
    stats = await stub.ModelStatistics(requests.pb.ModelStatisticsRequest(name="slow"))
    times = stats.model_stats[0].inference_stats
    # None is counted twice; who left before it was read is not counted.
    assert times.success.count + times.fail.count <= 1200


@pytest.mark.parametrize(
    ("field", "parameter", "value"),
    [
        ("parameters", "sequence_id", {"int64_param": 1}),
        ("parameters", "sequence_id", {"string_param": "a"}),
        ("parameters", "sequence_end", {"bool_param": True}),
        ("parameters", "priority", {"uint64_param": 1}),
        ("inputs[0].parameters", "shared_memory_region", {"string_param": "none"}),
        ("outputs[0].parameters", "shared_memory_region", {"string_param": "none"}),
        ("outputs[0].parameters", "classification", {"int64_param": 3}),
    ],
)
async def test_parameters_that_would_change_the_answer_are_refused(
    refused, requests, field, parameter, value
):
    request = requests.good()
    request.outputs.add(name="scaled")
    holders = {
        "parameters": request,
        "inputs[0].parameters": request.inputs[0],
        "outputs[0].parameters": request.outputs[0],
    }
    for choice, content in value.items():
        setattr(holders[field].parameters[parameter], choice, content)
    assert "not served" in await refused.bad_field(request, f"{field}[{parameter}]")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("crashing", grpc.StatusCode.INTERNAL),
        ("refusing", BAD),
        ("silent", grpc.StatusCode.INTERNAL),
        ("lying", grpc.StatusCode.INTERNAL),
        ("dying", grpc.StatusCode.INTERNAL),
    ],
)
async def test_an_engine_that_fails_tells_nothing_of_itself(stage, refused, requests, name, code):
    refusal = await refused(requests.echo([1, 1], bytes(4), name=name))
    assert refusal.code is code
    assert "secret" not in refusal.message
    assert stage.fatal_count == (name == "dying")


def test_an_engine_that_the_protocol_cannot_describe_is_refused_at_start(stage_free_engine):
    with pytest.raises(ValueError, match="cannot carry object"):
        stage_free_engine(np.object_, (None,), 1)
    with pytest.raises(ValueError, match="no batch dimension"):
        stage_free_engine(np.float32, (), 1)
    with pytest.raises(ValueError, match="0 or more"):
        stage_free_engine(np.float32, (None,), -1)
    assert stage_free_engine(np.float32, (), 0).batch_rank == 0
