"""Engines of TensorRT on the GPU that they are built on: what they compute. Never run so far."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sangsang.kernels.compiling.catalogue import plugin_names
from sangsang.services.runtime.building.engine_builds import target_devices
from sangsang.services.runtime.building.half_checking import example_calls, require_near
from sangsang.services.runtime.building.tensor_rt import TensorRtBuilder
from sangsang.services.runtime.engines.adapter_bank import open_bank
from sangsang.services.runtime.engines.cache import EngineCache
from sangsang.services.runtime.engines.execution_lane import ExecutionLane
from sangsang.services.runtime.engines.loading import load_engine
from sangsang.services.runtime.engines.tensor_rt import (
    BACKEND,
    PLAN_NAME,
    PLUGINS,
    library,
    open_engine,
)
from sangsang.services.runtime.errors import ModelNotReady
from sangsang.services.runtime.models.folder import MODULE_NAMES, ModelFolder

pytestmark = pytest.mark.gpu
POCKET = Path(__file__).parents[2] / "deploy" / "models" / "pocket"
# Ours inside, all that there are, and TensorRT's own alone.
KERNELS = {"chosen": PLUGINS, "all": plugin_names(), "none": ()}


@pytest.fixture(scope="module")
def folder():
    return ModelFolder.open(POCKET)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    # Asked before the fixture of conftest.py, which is of each test.
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU that this build of torch can use")
    try:
        library()
    except ModelNotReady as exc:
        pytest.skip(exc.message)
    return EngineCache(tmp_path_factory.mktemp("cache"))


def open_built(folder, module, cache, target, kernels="chosen"):
    """An engine; building it compares it with ONNX Runtime already, at every profile."""
    bank = open_bank(folder) if module == "unet" else None
    graph = POCKET / "engines" / "onnxruntime" / module
    if not (target / PLAN_NAME).exists():
        [device] = target_devices(BACKEND, ())
        with TensorRtBuilder(folder, module, graph, bank, cache, KERNELS[kernels]) as builder:
            builder.build(target, device)
    return open_engine(folder, module, (target / PLAN_NAME).read_bytes(), bank=bank)


def assert_near(engine, folder, module, call):
    reference = load_engine(folder, module)
    name = reference.outputs[0].name
    require_near(reference.infer(call)[name], engine.infer(call)[name])


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("module", MODULE_NAMES)
def test_a_module_computes_what_onnx_runtime_does(folder, cache, tmp_path, module, kernels):
    engine = open_built(folder, module, cache, tmp_path, kernels)
    bank = open_bank(folder) if module == "unet" else None
    sides, others = ((4, 4), (2, 3)) if module == "unet" else ((8, 8), (4, 5))
    # A full bucket, a padded one, parts, another size; each as kernels and as a graph.
    for call in example_calls(
        folder, module, bank, [(1, sides), (3, sides), (11, sides), (2, others)]
    ):
        for _ in range(3):
            assert_near(engine, folder, module, call)
    engine.close()


def test_two_lanes_at_once_compute_what_each_does_alone(folder, cache, tmp_path):
    from threading import Thread

    first = open_built(folder, "vae_decoder", cache, tmp_path)
    second = first.in_lane(ExecutionLane())
    calls = example_calls(folder, "vae_decoder", None, [(4, (8, 8)), (4, (8, 8))])
    alone = [first.infer(call)["image"] for call in calls]
    differing = []

    def serve(engine, call, expected):
        differing.extend(
            turn for turn in range(200) if not np.array_equal(engine.infer(call)["image"], expected)
        )

    pairs = zip((first, second), calls, alone, strict=True)
    threads = [Thread(target=serve, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert differing == []
    second.close()
    first.close()


def test_tensors_of_torch_are_bound_where_they_are(folder, cache, tmp_path):
    engine = open_built(folder, "vae_decoder", cache, tmp_path)
    [call] = example_calls(folder, "vae_decoder", None, [(2, (8, 8))])
    expected = engine.infer(call)["image"]
    latents = torch.from_numpy(call["latents"]).cuda()
    image = torch.empty(expected.shape, device="cuda")
    for _ in range(3):
        image.fill_(float("nan"))
        engine.run_in_place({"latents": latents, "image": image})
        np.testing.assert_array_equal(image.cpu().numpy(), expected)
    engine.close()


def test_what_was_built_is_loaded(folder, cache):
    from sangsang.services.runtime.building.build import build_model

    build_model(folder, backend=BACKEND, cache_dir=cache, max_step_count=2)
    for module in MODULE_NAMES:
        load_engine(folder, module, backend=BACKEND, cache=cache).close()
