"""The `triton_server` backend against a server that a script makes answer, fail and go away."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from scripted_inference import ModelScript, Refusal, ScriptedServer

from sangsang.services.runtime.deadlines import set_time_left
from sangsang.services.runtime.engines.engine import TensorSpec
from sangsang.services.runtime.engines.loading import load_engine
from sangsang.services.runtime.engines.remote_server import RemoteServer
from sangsang.services.runtime.engines.signatures import signature
from sangsang.services.runtime.errors import (
    DeadlinePassed,
    ModelNotReady,
    Overloaded,
    StageFailed,
    StageUnavailable,
)
from sangsang.services.runtime.models.folder import ModelFolder

POCKET = Path(__file__).parents[3] / "deploy" / "models" / "pocket"


@pytest.fixture(scope="module")
def folder():
    return ModelFolder.open(POCKET)


@pytest.fixture
def script(folder):
    """A text encoder whose states are its tokens, as floats."""
    wanted = signature(folder, "text_encoder")
    width = wanted.outputs[0].shape[2]

    def compute(arrays):
        tokens = arrays["input_ids"].astype(np.float32)
        return {"last_hidden_state": np.repeat(tokens[:, :, None], width, axis=2)}

    digest = folder.digest("text_encoder")
    return ModelScript("pocket.text_encoder", wanted, digest, compute)


@pytest.fixture
def server(script):
    running = ScriptedServer(script).start()
    yield running
    running.stop()


@pytest.fixture
def load(folder, server):
    """Loads the engine; closes what was loaded."""
    loaded = []

    def loading(module="text_encoder", timeout_s=10.0, shared_memory=True):
        remote = RemoteServer(server.address, timeout_s, shared_memory)
        loaded.append(load_engine(folder, module, backend="triton_server", remote=remote))
        return loaded[-1]

    yield loading
    for engine in loaded:
        engine.close()


@pytest.fixture(params=[False, True], ids=["wire", "shared_memory"])
def shared(request, script):
    script.shared_memory = request.param
    return request.param


def tokens(folder, batch, first=0):
    count = batch * folder.token_limit
    ids = np.arange(first, first + count, dtype=np.int64)
    return {"input_ids": ids.reshape(batch, folder.token_limit)}


def states(engine, inputs):
    return engine.infer(inputs)["last_hidden_state"]


def assert_right(engine, inputs):
    found = states(engine, inputs)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, :, 0], inputs["input_ids"])
    assert found.flags.writeable


def ours_in_shared_memory():
    return list(Path("/dev/shm").glob("sangsang-region-*"))


def test_it_answers(folder, server, load, shared):
    engine = load()
    assert (engine.name, engine.backend) == ("text_encoder", "triton_server")
    assert engine.inputs == signature(folder, "text_encoder").inputs
    assert engine.outputs == signature(folder, "text_encoder").outputs
    assert engine.digest == folder.digest("text_encoder")
    for batch in (1, 3, 2, 7, 1):
        assert_right(engine, tokens(folder, batch, first=batch))
    assert server.seen.batches == [1, 3, 2, 7, 1]
    # What lies in shared memory is not on the wire.
    assert set(server.seen.raw_counts) == ({0} if shared else {1})


def test_bad_inputs_are_refused_before_the_server_sees_them(folder, server, load):
    with pytest.raises(ValueError, match="input_ids must be int64"):
        load().infer({"input_ids": np.zeros((1, folder.token_limit), np.float32)})
    assert server.seen.batches == []


def drop_output(message):
    del message.outputs[:]


def rename_input(message):
    message.inputs[0].name = "ids"


def add_input(message):
    message.inputs.add(name="mask", datatype="FP32", shape=[-1])


def change_datatype(message):
    message.outputs[0].datatype = "FP16"


def change_width(message):
    message.outputs[0].shape[2] = 5


def change_rank(message):
    message.inputs[0].shape.append(1)


def fix_batch(message):
    message.inputs[0].shape[0] = 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop_output, "output last_hidden_state is missing"),
        (rename_input, "input input_ids is missing; input ids is not known"),
        (add_input, "input mask is not known"),
        (change_datatype, "output last_hidden_state is FP16, not FP32"),
        (change_width, r"output last_hidden_state has shape \[-1, \d+, 5\], not \[-1, "),
        (change_rank, r"input input_ids has shape \[-1, \d+, 1\], not \[-1, "),
        (fix_batch, r"input input_ids has shape \[1, \d+\], not \[-1, "),
    ],
)
def test_another_model_by_that_name_is_refused(script, load, change, said):
    script.change_metadata = change
    with pytest.raises(ModelNotReady, match=f"is not text_encoder of this model: .*{said}"):
        load()


def test_all_differences_are_named_at_once(script, load):
    def change(message):
        change_datatype(message)
        add_input(message)

    script.change_metadata, script.digest = change, "f" * 64
    with pytest.raises(ModelNotReady, match=r"mask .* is FP16.* digest ffffffffffff, not "):
        load()


def test_what_a_server_need_not_say_is_not_asked_for(script, folder, load):
    script.has_config = False
    assert_right(load(), tokens(folder, 2))
    script.has_config, script.digest = True, ""
    assert_right(load(), tokens(folder, 2))


def test_a_further_input_that_is_optional_is_accepted(script, folder, load):
    script.change_metadata, script.optional_inputs = add_input, ("mask",)
    assert_right(load(), tokens(folder, 2))


def test_sizes_that_the_server_leaves_open_are_accepted(script, folder, load):
    def change(message):
        message.outputs[0].shape[2] = -1

    script.change_metadata = change
    assert_right(load(), tokens(folder, 2))


def test_a_model_that_is_not_ready_is_named(script, load):
    script.ready = False
    with pytest.raises(ModelNotReady, match=r"has no model pocket\.text_encoder that is ready"):
        load()


def test_a_server_that_is_not_there_is_unavailable(folder, server, load):
    server.stop()
    started = time.monotonic()
    with pytest.raises(StageUnavailable, match=r"pocket\.text_encoder on 127.0.0.1:\d+: UNAVAIL"):
        load()
    assert time.monotonic() - started < 5


def test_an_address_is_needed(folder):
    with pytest.raises(ModelNotReady, match="needs SANGSANG_TRITON_SERVER_ADDRESS"):
        load_engine(folder, "unet", backend="triton_server", remote=RemoteServer(""))


CODES = {
    grpc.StatusCode.UNAVAILABLE: StageUnavailable,
    grpc.StatusCode.CANCELLED: StageUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlinePassed,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.NOT_FOUND: ModelNotReady,
    grpc.StatusCode.FAILED_PRECONDITION: ModelNotReady,
    grpc.StatusCode.INVALID_ARGUMENT: StageFailed,
    grpc.StatusCode.INTERNAL: StageFailed,
    grpc.StatusCode.UNKNOWN: StageFailed,
}


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_a_status_becomes_our_error_and_the_next_call_is_served(script, folder, load, shared, code):
    engine = load()
    good = script.compute

    def refuse(_):
        raise Refusal(code)

    script.compute = refuse
    with pytest.raises(CODES[code], match=f"{code.name} as the script says") as caught:
        states(engine, tokens(folder, 2))
    assert type(caught.value) is CODES[code]
    script.compute = good
    assert_right(engine, tokens(folder, 2))


def test_a_request_s_deadline_goes_along(script, server, folder, load, shared):
    engine = load(timeout_s=20)
    set_time_left(5.0)
    try:
        assert_right(engine, tokens(folder, 1))
    finally:
        set_time_left(None)
    # gRPC rounds what it sends up.
    assert 3 < server.seen.seconds_left[0] < 5.5
    assert 3e6 < server.seen.timeouts_us[0] <= 5e6


@pytest.mark.parametrize("limit", ["request", "setting"])
def test_a_call_ends_when_its_time_is_over(script, folder, load, shared, limit):
    engine = load(timeout_s=0.4 if limit == "setting" else 30)
    good, release = script.compute, threading.Event()

    def hang(arrays):
        release.wait(10)
        return good(arrays)

    script.compute = hang
    started = time.monotonic()
    set_time_left(0.4 if limit == "request" else None)
    try:
        with pytest.raises(DeadlinePassed):
            states(engine, tokens(folder, 2))
        assert 0.3 < time.monotonic() - started < 5
    finally:
        set_time_left(None)
        release.set()
    script.compute = good
    assert_right(engine, tokens(folder, 2, first=9))


def test_a_request_without_time_is_not_sent(server, folder, load):
    engine = load()
    set_time_left(0.0)
    try:
        with pytest.raises(DeadlinePassed, match="no time left"):
            states(engine, tokens(folder, 1))
    finally:
        set_time_left(None)
    assert server.seen.batches == []


def test_a_late_answer_does_not_reach_the_next_call(script, server, folder, load):
    """A server still writes to the region of a call that was given up."""
    script.shared_memory = True
    engine = load(timeout_s=0.5)
    good, release, done = script.compute, threading.Event(), threading.Event()

    def late(arrays):
        release.wait(10)
        done.set()
        return good(arrays)

    script.compute = late
    with pytest.raises(DeadlinePassed):
        states(engine, tokens(folder, 2))

    def meanwhile(arrays):
        release.set()
        done.wait(10)
        answer = good(arrays)
        # Time for the late answer to be written.
        time.sleep(0.1)
        return answer

    script.compute = meanwhile
    engine._server = replace(engine._server, timeout_s=10.0)
    assert_right(engine, tokens(folder, 2, first=500))
    assert len(set(server.seen.registered)) == 2


def test_a_batch_beyond_the_server_s_limit_goes_in_parts(script, server, folder, load, shared):
    script.max_batch_size = 3
    engine = load()
    assert_right(engine, tokens(folder, 8))
    assert sorted(server.seen.batches) == [2, 3, 3]


@pytest.mark.parametrize(
    ("rows", "calls"),
    [(1, [1]), (3, [4]), (4, [4]), (5, [8]), (8, [8]), (11, [4, 8]), (17, [1, 8, 8])],
)
def test_batches_are_filled_up_for_a_server_compiled_for_some_sizes(
    script, server, folder, load, shared, rows, calls
):
    script.row_counts = "8,1,4"
    engine = load()
    assert_right(engine, tokens(folder, rows))
    assert len(states(engine, tokens(folder, rows))) == rows
    assert sorted(server.seen.batches) == sorted(calls * 2)
    assert engine.padding_row_count == 2 * (sum(calls) - rows)


@pytest.mark.parametrize("told", ["many", "0,1", "1,,2", "-4"])
def test_sizes_that_are_none_are_refused(script, load, told):
    script.row_counts = told
    with pytest.raises(ModelNotReady, match=r"pocket\.text_encoder on 127\.0\.0\.1:\d+: "):
        load()


def test_one_failed_part_fails_the_batch(script, folder, load, shared):
    script.max_batch_size = 2
    engine, good = load(), script.compute

    def fail_first(arrays):
        if arrays["input_ids"][0, 0] == 0:
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED)
        return good(arrays)

    script.compute = fail_first
    with pytest.raises(Overloaded):
        states(engine, tokens(folder, 5))
    assert_right(engine, tokens(folder, 5, first=1))


def transpose(array):
    return np.ascontiguousarray(array.transpose(0, 2, 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda a: {"last_hidden_state": a[:, :, :1]},
        lambda a: {"last_hidden_state": a[:1]},
        lambda a: {"last_hidden_state": transpose(a)},
        lambda a: {"last_hidden_state": a.astype(np.float16)},
        lambda a: {"last_hidden_state": np.concatenate([a, a])},
        lambda a: {},
        lambda a: {"other": a},
    ],
    ids=["narrow", "fewer rows", "transposed", "f16", "more rows", "nothing", "another name"],
)
def test_an_answer_of_another_shape_is_a_failed_stage(script, folder, load, shared, change):
    engine, good = load(), script.compute
    assert_right(engine, tokens(folder, 2))
    script.compute = lambda arrays: change(good(arrays)["last_hidden_state"])
    with pytest.raises(StageFailed, match="last_hidden_state"):
        states(engine, tokens(folder, 2))


def test_a_server_that_goes_away_is_unavailable_until_it_is_back(server, folder, load, shared):
    engine = load()
    assert_right(engine, tokens(folder, 3))
    server.stop()
    for _ in range(2):
        with pytest.raises(StageUnavailable):
            states(engine, tokens(folder, 3))
    server.start()
    assert_right(eventually(engine, folder), tokens(folder, 3, first=7))


def eventually(engine, folder, limit_s=10.0):
    """The engine, once it has reached the server that has come back."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            engine.infer(tokens(folder, 1))
        except StageUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return engine


def test_a_server_that_comes_back_with_other_weights_is_refused(script, server, folder, load):
    engine = load()
    server.stop()
    with pytest.raises(StageUnavailable):
        states(engine, tokens(folder, 1))
    script.digest = "e" * 64
    server.start()
    with pytest.raises(ModelNotReady, match="digest eeeeeeeeeeee, not"):
        eventually(engine, folder)


def test_a_region_that_the_server_forgot_is_registered_again(script, server, folder, load):
    script.shared_memory = True
    engine = load()
    assert_right(engine, tokens(folder, 2))
    server.regions.clear()
    assert_right(engine, tokens(folder, 2, first=3))
    assert len(server.seen.registered) == 2


def test_regions_grow_and_leave_nothing_behind(script, server, folder, load):
    script.shared_memory = True
    engine = load()
    for batch in (1, 4, 2, 8):
        assert_right(engine, tokens(folder, batch))
        # Unlinked as soon as the server has it: a killed process leaves nothing.
        assert ours_in_shared_memory() == []
        assert len(server.regions) == 1
    assert len(server.seen.registered) == 3
    engine.close()
    assert server.regions == {}


def test_a_server_that_cannot_open_a_region_is_sent_the_tensors(script, server, folder, load):
    script.shared_memory = script.refuses_regions = True
    engine = load()
    assert_right(engine, tokens(folder, 2))
    assert server.seen.raw_counts == [1]
    assert ours_in_shared_memory() == []


def test_shared_memory_can_be_declined(script, server, folder, load):
    script.shared_memory = True
    assert_right(load(shared_memory=False), tokens(folder, 2))
    assert server.seen.registered == []


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:8001", True),
        ("localhost:8001", True),
        ("[::1]:8001", True),
        ("10.0.0.7:8001", False),
        ("triton.example:8001", False),
        ("127.example:8001", False),
    ],
)
def test_only_this_machine_shares_memory(address, local):
    assert RemoteServer(address).is_local is local


def test_the_trace_goes_along(server, folder, load):
    engine = load()
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("step") as span:
        states(engine, tokens(folder, 1))
    trace_id = f"{span.get_span_context().trace_id:032x}"
    assert trace_id in server.seen.traceparents[0]


def test_a_closed_engine_says_so(folder, load):
    engine = load()
    engine.close()
    engine.close()
    with pytest.raises(StageFailed, match="text_encoder has been closed"):
        states(engine, tokens(folder, 1))


def test_a_bank_s_scales_are_an_input_of_the_server_s(folder, server, load, script):
    script.name, script.digest = "pocket.unet", folder.digest("unet")
    script.signature = signature(folder, "unet")
    with pytest.raises(ModelNotReady, match="input adapter_scale is missing"):
        load("unet")
    scale = TensorSpec("adapter_scale", np.dtype(np.float32), (None, 1), optional=True)
    script.signature = replace(script.signature, inputs=(*script.signature.inputs, scale))
    script.compute = lambda arrays: {"out_sample": arrays["sample"] + arrays["adapter_scale"].sum()}
    engine = load("unet")
    sample = np.ones((2, folder.latent_channels, 8, 12), np.float32)
    context = np.zeros((2, 7, folder.embedding_width), np.float32)
    inputs = {
        "sample": sample,
        "timestep": np.ones(2, np.float32),
        "encoder_hidden_states": context,
    }
    np.testing.assert_array_equal(engine.infer(inputs)["out_sample"], sample)
    inputs["adapter_scale"] = np.ones((2, 1), np.float32)
    np.testing.assert_array_equal(engine.infer(inputs)["out_sample"], sample + 2)
