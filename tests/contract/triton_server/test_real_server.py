"""The `triton_server` backend against a real NVIDIA Triton Inference Server, 2.51.

Run: make triton && pytest tests/contract/triton_server
"""

import time
from pathlib import Path

import numpy as np
import pytest
from triton_servers import triton_server

from sangsang.services.runtime.building.export import example_inputs
from sangsang.services.runtime.engines.loading import load_engine
from sangsang.services.runtime.engines.remote_server import RemoteServer
from sangsang.services.runtime.errors import ModelNotReady, StageUnavailable
from sangsang.services.runtime.models.folder import ModelFolder

POCKET = Path(__file__).parents[3] / "deploy" / "models" / "pocket"
SHARING = pytest.mark.parametrize("shared_memory", [False, True], ids=["wire", "shared_memory"])


@pytest.fixture(scope="module")
def folder():
    return ModelFolder.open(POCKET)


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    modules = {
        "unet": {},
        "vae_encoder": {},
        "text_encoder": {"max_batch_size": 3},
        "vae_decoder": {"digest": "0" * 64},
    }
    place = tmp_path_factory.mktemp("triton")
    with triton_server(folder, modules, place / "cache", place) as running:
        yield running


def load(folder, server, module, *, shared_memory):
    remote = RemoteServer(server.address, 30.0, shared_memory)
    return load_engine(folder, module, backend="triton_server", remote=remote)


@SHARING
@pytest.mark.parametrize("module", ["unet", "vae_encoder", "text_encoder"])
def test_the_same_bits_as_in_this_process(folder, server, module, shared_memory):
    engine = load(folder, server, module, shared_memory=shared_memory)
    reference = load_engine(folder, module)
    name = engine.outputs[0].name
    assert engine.precision == "f32"
    for batch, sides in ((1, (4, 4)), (8, (4, 6)), (3, (8, 8))):
        inputs = example_inputs(folder, module, batch, sides)
        if module == "unet":
            inputs["adapter_scale"] = np.arange(batch, dtype=np.float32)[:, None] % 2
        found, expected = engine.infer(inputs)[name], reference.infer(inputs)[name]
        assert found.std() > 0
        np.testing.assert_array_equal(found, expected)
    assert engine._regions.used is shared_memory
    engine.close()


@SHARING
def test_other_weights_are_refused(folder, server, shared_memory):
    with pytest.raises(ModelNotReady, match="its weights have the digest 000000000000, not"):
        load(folder, server, "vae_decoder", shared_memory=shared_memory)


def test_a_model_that_it_has_not_is_named(folder, server, tmp_path):
    copy = tmp_path / "other"
    copy.symlink_to(folder.path)
    other = ModelFolder.open(copy)
    object.__setattr__(other, "model_id", "other")
    with pytest.raises(ModelNotReady, match=r"has no model other\.unet that is ready"):
        load(other, server, "unet", shared_memory=True)


@SHARING
def test_a_killed_server_is_unavailable_until_it_runs_again(folder, server, shared_memory):
    engine = load(folder, server, "unet", shared_memory=shared_memory)
    inputs = example_inputs(folder, "unet", 2, (4, 4))
    before = engine.infer(inputs)["out_sample"]
    server.stop(kill=True)
    try:
        with pytest.raises(
            StageUnavailable, match=r"pocket\.unet on 127\.0\.0\.1:\d+: UNAVAILABLE"
        ):
            engine.infer(inputs)
    finally:
        server.start()
    np.testing.assert_array_equal(answer(engine, inputs)["out_sample"], before)
    engine.close()


def answer(engine, inputs, limit_s=20.0):
    """What an engine answers once its connection, which waits between attempts, is back."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return engine.infer(inputs)
        except StageUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
