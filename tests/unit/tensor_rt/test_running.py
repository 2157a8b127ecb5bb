"""Running engines of TensorRT on a scripted one that computes from the addresses it is given."""

import threading
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from host_device import aligned
from scripted_machine import assert_near, decoder_call, load

from sangsang.services.runtime.building.half_checking import example_calls
from sangsang.services.runtime.engines.adapter_bank import open_bank
from sangsang.services.runtime.engines.execution_lane import ExecutionLane
from sangsang.services.runtime.errors import StageFailed
from sangsang.services.runtime.models.folder import MODULE_NAMES

pytestmark = pytest.mark.skipif(
    find_spec("tensorrt_bindings") is None or find_spec("triton") is None,
    reason="TensorRT's plugin layer or triton is missing: pip install 'sangsang[kernels-test]'",
)


def profiles_of(machine):
    return [call[1] for call in machine.calls if call[0] == "profile"]


def executions(machine):
    return machine.calls.count("execute")


@pytest.mark.parametrize("module", MODULE_NAMES)
def test_a_batch_of_any_size_gives_what_onnx_runtime_gives(folder, machine, built, module):
    engine = load(folder, module, built[0])
    bank = open_bank(folder) if module == "unet" else None
    # One that fills a bucket, one that is padded, one in parts, another size, and the first again.
    sides, small = ((4, 4), (2, 3)) if module == "unet" else ((8, 8), (4, 5))
    shapes = [(1, sides), (3, sides), (11, sides), (2, small), (1, sides)]
    for call in example_calls(folder, module, bank, shapes):
        assert_near(engine, folder, module, call)
    engine.close()


def test_batches_are_padded_to_a_bucket_and_large_ones_go_in_parts(folder, machine, built):
    engine = load(folder, "vae_decoder", built[0])
    for rows, side, expected in ((3, 8, [4]), (1, 8, [0]), (3, 6, [5]), (11, 8, [6])):
        machine.calls.clear()
        engine.infer(decoder_call(folder, rows, side))
        assert profiles_of(machine) == expected
    machine.calls.clear()
    engine.infer(decoder_call(folder, 11))
    shapes = [call[2] for call in machine.calls if call[0] == "shape"]
    assert shapes == []
    # Three rows padded to four twice, then eight and three, and the same again.
    assert engine.padding_row_count == 4
    # Eight rows by the graph, and three more, padded to four, by another.
    assert [graph.replay_count for graph in machine.device.graphs] == [1, 1]
    engine.close()


def test_a_size_that_no_profile_has_is_named(folder, machine, built):
    engine = load(folder, "vae_decoder", built[0])
    with pytest.raises(ValueError, match=r"the model's manifest, not for latents .*17, 17"):
        engine.infer(decoder_call(folder, 1, 17))
    engine.close()


def test_a_graph_is_captured_after_a_run_with_its_shapes_and_then_replayed(folder, machine, built):
    engine = load(folder, "vae_decoder", built[0])
    device, calls = machine.device, [decoder_call(folder, 2, seed=seed) for seed in range(4)]
    engine.infer(calls[0])
    assert (executions(machine), len(device.graphs)) == (1, 0)
    engine.infer(calls[1])
    # The second is enqueued once, for the capture.
    assert (executions(machine), len(device.graphs)) == (2, 1)
    for call in calls[2:]:
        assert_near(engine, folder, "vae_decoder", call)
    assert (executions(machine), [graph.replay_count for graph in device.graphs]) == (2, [3])
    # Another bucket has its own, and leaves this one be.
    engine.infer(decoder_call(folder, 1))
    engine.infer(decoder_call(folder, 1))
    engine.infer(calls[0])
    assert [graph.replay_count for graph in device.graphs] == [4, 1]
    engine.close()


def test_a_graph_is_dropped_when_the_shape_changes(folder, machine, built):
    engine = load(folder, "vae_decoder", built[0])
    for side in (6, 6, 5, 6, 6):
        assert_near(engine, folder, "vae_decoder", decoder_call(folder, 2, side))
    # The first graph was of side 6; after side 5 it had to be captured again.
    assert [graph.replay_count for graph in machine.device.graphs] == [1, 1]
    engine.close()


def test_a_graph_is_dropped_when_the_arena_moves(folder, machine, built):
    lane = ExecutionLane()
    decoder, encoder = (load(folder, m, built[0], lane) for m in ("vae_decoder", "text_encoder"))
    call = decoder_call(folder, 1)
    decoder.infer(call)
    decoder.infer(call)
    before = lane.arena(0)
    encoder.infer({"input_ids": np.zeros((8, folder.token_limit), np.int64)})
    assert lane.arena(0).size_bytes > before.size_bytes
    machine.calls.clear()
    assert_near(decoder, folder, "vae_decoder", call)
    arena = lane.arena(0)
    assert ("arena", arena.address, arena.size_bytes) in machine.calls
    decoder.infer(call)
    assert len(machine.device.graphs) == 2
    decoder.close()
    encoder.close()


def test_an_engine_that_cannot_be_captured_is_launched_kernel_by_kernel(folder, machine, built):
    machine.device.refuses_capture = True
    engine = load(folder, "vae_decoder", built[0])
    for seed in range(4):
        assert_near(engine, folder, "vae_decoder", decoder_call(folder, 2, seed=seed))
    assert machine.device.graphs == []
    # One was for the capture that failed.
    assert executions(machine) == 5
    engine.close()


def test_the_order_of_calls(folder, machine, built):
    engine = load(folder, "vae_decoder", built[0])
    machine.calls.clear()
    engine.infer(decoder_call(folder, 2))
    kinds = [call if isinstance(call, str) else call[0] for call in machine.calls]
    expected = ["create_context", "profile", "shape", "address", "address", "arena", "execute"]
    assert kinds == expected
    engine.close()


def test_lanes_share_the_plan_and_nothing_else(folder, machine, built):
    first = load(folder, "vae_decoder", built[0], ExecutionLane(high_priority=True))
    second = first.in_lane(ExecutionLane())
    assert machine.calls.count("deserialize") == 1
    calls = [decoder_call(folder, 2, seed=seed) for seed in range(2)]
    errors = []

    def serve(engine, call):
        try:
            for _ in range(4):
                assert_near(engine, folder, "vae_decoder", call)
        except BaseException as exc:
            errors.append(exc)

    threads = [
        threading.Thread(target=serve, args=pair)
        for pair in zip((first, second), calls, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    arenas = {call[1] for call in machine.calls if call[0] == "arena"}
    addresses = [call[2] for call in machine.calls if call[0] == "address"]
    assert len(arenas) == 2
    assert len(set(addresses)) == len(addresses) == 4
    assert first._lane.stream is not second._lane.stream
    first.close()
    assert_near(second, folder, "vae_decoder", calls[1])
    second.close()


def test_only_the_diffusion_model_has_a_lane_of_high_priority(folder, machine, built):
    for module in ("text_encoder", "unet", "vae_decoder"):
        engine = load(folder, module, built[0])
        assert engine._lane.stream.high_priority == (module == "unet")
        engine.close()


def test_adapters_are_inputs_that_are_bound_once_for_a_context(folder, machine, built):
    engine = load(folder, "unet", built[0])
    bank = open_bank(folder)
    [call] = example_calls(folder, "unet", bank, [(1, (4, 4))])
    for scale in (0.0, 1.0, 0.0):
        call["adapter_scale"][:] = scale
        assert_near(engine, folder, "unet", call)
    bound = [call[1] for call in machine.calls if call[0] == "address"]
    assert set(bank.arrays) <= set(bound)
    assert len(bound) == len(set(bound))
    engine.close()


def tensors_for(engine, call):
    found = {name: aligned(torch.from_numpy(array)) for name, array in call.items()}
    [(name, output)] = engine.infer(call).items()
    return found | {name: aligned(torch.full(output.shape, float("nan")))}, output


def test_tensors_of_the_gpu_are_bound_where_they_are(folder, machine, built):
    engine = load(folder, "vae_decoder", built[0])
    tensors, expected = tensors_for(engine, decoder_call(folder, 2))
    machine.calls.clear()
    engine.run_in_place(tensors)
    bound = {call[1]: call[2] for call in machine.calls if call[0] == "address"}
    assert bound == {name: tensor.data_ptr() for name, tensor in tensors.items()}
    assert "caller's" in engine._lane.stream.waited_for
    np.testing.assert_array_equal(tensors["image"].numpy(), expected)
    graphs = len(machine.device.graphs)
    for _ in range(3):
        tensors["image"].fill_(float("nan"))
        # The same tensors: one graph. What has DLPack need not be torch's.
        engine.run_in_place(tensors | {"latents": tensors["latents"].numpy()})
        np.testing.assert_array_equal(tensors["image"].numpy(), expected)
    assert len(machine.device.graphs) == graphs + 1
    # Others: that graph would have written to the old ones.
    moved, expected = tensors_for(engine, decoder_call(folder, 2, seed=5))
    engine.run_in_place(moved)
    np.testing.assert_array_equal(moved["image"].numpy(), expected)
    engine.close()


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("latents", lambda x: x.double(), "latents must be float32"),
        ("latents", lambda x: x[:, :, :, ::2], "contiguous"),
        ("latents", lambda x: aligned(torch.zeros(3, *x.shape[1:])), "pad the rows"),
        ("latents", lambda x: x.flatten()[1:9], "contiguous, at a multiple of 256 bytes"),
        ("image", lambda x: aligned(x[:1]), "image must have shape"),
        ("image", lambda x: "picture", "image must be a tensor on the GPU"),
        ("more", lambda x: x, "not so: more"),
    ],
)
def test_tensors_that_cannot_be_bound_are_named(folder, machine, built, name, change, said):
    engine = load(folder, "vae_decoder", built[0])
    tensors, _ = tensors_for(engine, decoder_call(folder, 2))
    tensors[name] = change(tensors.get(name))
    with pytest.raises(ValueError, match=said):
        engine.run_in_place(tensors)
    engine.close()


def test_a_failure_of_the_gpu_ends_the_process_and_a_closed_engine_says_so(
    folder, machine, built, monkeypatch
):
    engine = load(folder, "vae_decoder", built[0])

    def fails(self, stream_handle):
        return False

    monkeypatch.setattr(machine.tensorrt.IExecutionContext, "execute_async_v3", fails)
    with pytest.raises(StageFailed, match="failed in TensorRT") as caught:
        engine.infer(decoder_call(folder, 1))
    assert caught.value.fatal
    engine.close()
    with pytest.raises(StageFailed, match="closed"):
        engine.infer(decoder_call(folder, 1))
