"""Whatever bytes arrive, the answer is a status that blames the caller, and the server lives on."""

import asyncio
import sys
import time
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sangsang.services.runtime.errors import InvalidRequest
from sangsang.services.runtime.open_inference import messages
from sangsang.services.runtime.open_inference.checks import check_structure
from sangsang.services.runtime.open_inference.tensors import decode_inputs

METHOD = f"/{messages.SERVICE_NAME}/ModelInfer"
BIG = st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 2**31 - 1, 2**31, 2**32, 2**60, 2**62, 2**63 - 1])
SHAPES = st.lists(BIG | st.integers(1, 4), max_size=4) | st.just([1] * 64)
KNOWN_DATATYPES = ["FP32", "FP16", "FP64", "INT8", "INT64", "BOOL", "BF16", "BYTES", "fp32"]
DATATYPES = st.sampled_from(KNOWN_DATATYPES) | st.text(max_size=8)
NAMES = st.sampled_from(["sample", "factor", "smaple", "", "../etc", "a\0b"])
PARAMETERS = st.dictionaries(
    st.sampled_from(["timeout", "priority", "sequence_id", "other"]),
    st.one_of(
        st.booleans().map(lambda v: {"bool_param": v}),
        st.integers(-(2**63), 2**63 - 1).map(lambda v: {"int64_param": v}),
        st.floats().map(lambda v: {"double_param": v}),
        st.text(max_size=4).map(lambda v: {"string_param": v}),
    ),
    max_size=2,
)
CONTENTS = st.fixed_dictionaries(
    {},
    optional={
        "fp32_contents": st.lists(st.floats(width=32), max_size=4),
        "int_contents": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
        "bool_contents": st.lists(st.booleans(), max_size=4),
    },
)
INPUTS = st.lists(
    st.fixed_dictionaries(
        {"name": NAMES, "datatype": DATATYPES, "shape": SHAPES},
        optional={"contents": CONTENTS, "parameters": PARAMETERS},
    ),
    max_size=3,
)
REQUESTS = st.fixed_dictionaries(
    {
        "model_name": st.just("scale"),
        "inputs": INPUTS,
        "raw_input_contents": st.lists(st.binary(max_size=20), max_size=3),
        "parameters": PARAMETERS,
        "outputs": st.lists(st.fixed_dictionaries({"name": NAMES}), max_size=3),
    }
)


@given(fields=REQUESTS)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_request_is_read_or_refused(scale_engine, fields):
    request = messages.ModelInferRequest(**fields)
    refusal, arrays = None, {}
    try:
        check_structure(request, scale_engine.engine)
        arrays = decode_inputs(request, scale_engine)
    except InvalidRequest as error:
        refusal = error
    if refusal is None:
        assert set(arrays) == {"sample", "factor"}
        assert all(1 <= array.shape[0] <= 4 for array in arrays.values())
    else:
        assert refusal.violations
        assert len(refusal.message) < 4000


@given(changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6))
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_good_request_with_changed_bytes_is_read_or_refused(scale_engine, requests, changes):
    body = bytearray(requests.good().SerializeToString())
    for place, value in changes:
        body[place % len(body)] = value
    with suppress(DecodeError, InvalidRequest):
        request = messages.ModelInferRequest.FromString(bytes(body))
        check_structure(request, scale_engine.engine)
        assert set(decode_inputs(request, scale_engine)) == {"sample", "factor"}


def truncated(good):
    return [good[:cut] for cut in range(1, len(good), 7)]


def varint(number):
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def unknown_fields(good):
    """Returns a good request behind 10,000 fields that nobody declared, of each wire type."""
    stuffing = b"".join(
        varint(number << 3) + b"\x01" + varint(number << 3 | 2) + b"\x03abc"
        for number in range(100, 10_100)
    )
    return stuffing + good


MALFORMED = {
    "a varint of 11 bytes": b"\x08" + b"\xff" * 11,
    "a length beyond the end": b"\x0a" + varint(2**40) + b"abc",
    "a length of 2^64": b"\x2a" + b"\xff" * 9 + b"\x01",
    "groups nested 10,000 deep": b"\x0b" * 10_000,
    "field number 0": b"\x00\x00",
    "wire type 7": b"\x0f",
    "a name that is not UTF-8": b"\x0a\x02\xff\xfe",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
async def test_bytes_that_are_no_message_fail_alone(stage, refused, body):
    async with grpc.aio.insecure_channel(stage.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(METHOD)(body, timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await refused.alive()


async def test_truncated_requests_fail_alone(stage, refused, requests):
    async with grpc.aio.insecure_channel(stage.address) as channel:
        call = channel.unary_unary(METHOD)
        for body in truncated(requests.good().SerializeToString()):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(body, timeout=5)
            # A cut between two fields leaves a message, which lacks an input or the model's name.
            assert caught.value.code() in {
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.NOT_FOUND,
            }
    await refused.alive()


async def test_unknown_fields_are_skipped(stage, requests):
    body = unknown_fields(requests.good().SerializeToString())
    async with grpc.aio.insecure_channel(stage.address) as channel:
        answer = await channel.unary_unary(METHOD)(body, timeout=5)
    assert len(requests.pb.ModelInferResponse.FromString(answer).outputs) == 2


async def test_a_message_beyond_the_limit_is_refused_before_it_is_read(refused, requests):
    request = requests.echo([1, 5 * 2**20], bytes(20 * 2**20))
    assert (await refused(request)).code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_long_list_does_not_hold_the_event_loop(stage, refused, requests):
    request = requests.good()
    request.inputs[0].shape[:] = np.full(10**6, 2**62).tolist()
    started_at = time.perf_counter()
    assert (await refused(request)).code is grpc.StatusCode.INVALID_ARGUMENT
    assert time.perf_counter() - started_at < 3


BOMB = """
import sys
import grpc
with grpc.insecure_channel(sys.argv[1], compression=grpc.Compression.Gzip) as channel:
    try:
        channel.unary_unary(sys.argv[2])(bytes(2**28), timeout=30)
    except grpc.RpcError as error:
        print(error.code().name)
"""


def peak_bytes():
    """Returns the most memory that this process has held."""
    (line,) = (t for t in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in t)
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_gzip_bomb_is_refused_before_it_unfolds(stage, refused):
    peak_before = peak_bytes()
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", BOMB, stage.address, METHOD, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(client.communicate(), 60)
    assert out.decode().strip() == "RESOURCE_EXHAUSTED"
    assert peak_bytes() - peak_before < 64 * 2**20
    await refused.alive()
