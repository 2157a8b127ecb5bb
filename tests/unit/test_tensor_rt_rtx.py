"""TensorRT-RTX: engines are built without a GPU, kept under their key, and never taken for others.

The shipped model for two targets; with SANGSANG_TEST_ENGINES=full for all four.
"""

import os
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from sangsang.services.runtime.building import build as build_module
from sangsang.services.runtime.building import builder_process
from sangsang.services.runtime.building.build import build_model
from sangsang.services.runtime.building.builder_process import BuildTask, run_builder
from sangsang.services.runtime.building.failures import ExportFailed
from sangsang.services.runtime.building.tensor_rt_rtx import TensorRtRtxBuilder
from sangsang.services.runtime.engines import tensor_rt_rtx as engines
from sangsang.services.runtime.engines.adapter_bank import open_bank
from sangsang.services.runtime.engines.cache import DamagedBuild, EngineCache, NotBuilt
from sangsang.services.runtime.engines.loading import find_build, load_engine
from sangsang.services.runtime.engines.tensor_rt_rtx import BACKEND, ENGINE_NAME, TARGETS, build_key
from sangsang.services.runtime.engines.tensor_rt_sizes import range_profile
from sangsang.services.runtime.errors import ModelNotReady
from sangsang.services.runtime.models.folder import MODULE_NAMES, ModelFolder

SUPPORT = Path(__file__).parents[1] / "support"
POCKET = Path(__file__).parents[2] / "deploy" / "models" / "pocket"
DEVICES = (
    tuple(TARGETS) if os.environ.get("SANGSANG_TEST_ENGINES") == "full" else ("sm_89", "sm_120")
)

needs_library = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None,
    reason="tensorrt-rtx is not installed: pip install 'sangsang[tensorrt-rtx]'",
)


@pytest.fixture(scope="module")
def folder():
    """It ships with its graphs, and has an adapter."""
    return ModelFolder.open(POCKET)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return EngineCache(tmp_path_factory.mktemp("cache"))


def build(folder, cache, *devices):
    return build_model(
        folder, backend=BACKEND, cache_dir=cache, devices=devices, max_step_count=2
    ).modules


@pytest.fixture(scope="module")
def reports(folder, cache):
    return {report.module: report for report in build(folder, cache, *DEVICES)}


def keys(folder):
    for module in MODULE_NAMES:
        bank = open_bank(folder) if module == "unet" else None
        for device in DEVICES:
            yield build_key(folder, module, device, bank)


@needs_library
def test_every_module_is_built_for_each_target(folder, cache, reports):
    found = [cache.find(key) / ENGINE_NAME for key in keys(folder)]
    assert len(set(found)) == len(MODULE_NAMES) * len(DEVICES)
    for engine in found:
        content = engine.read_bytes()
        assert content.startswith(b"vtrt")
        assert len(content) > 1_000_000
    for module in MODULE_NAMES:
        for device in DEVICES:
            report = reports[f"{module}, {device}"]
            assert not report.reused
            # f16 throughout: its roundings show, and are small.
            assert 1e-3 < report.max_difference < 2e-2
            assert report.row_exact is None


@needs_library
def test_a_second_build_starts_no_process(folder, cache, reports, monkeypatch):
    monkeypatch.setattr(builder_process, "_CHILD", "no_such_module")
    again = [report for report in build(folder, cache, *DEVICES) if "sm_" in report.module]
    assert len(again) == len(MODULE_NAMES) * len(DEVICES)
    assert all(report.reused for report in again)


@needs_library
@pytest.mark.parametrize("harm", ["cut", "changed", "removed"])
def test_a_damaged_engine_is_refused_and_built_again(folder, cache, reports, harm):
    key = build_key(folder, "text_encoder", "sm_89", None)
    engine = cache.entry_path(key) / ENGINE_NAME
    content = engine.read_bytes()
    if harm == "removed":
        engine.unlink()
    else:
        engine.write_bytes(content[:-1] if harm == "cut" else content[:-1] + b"?")
    with pytest.raises(DamagedBuild):
        cache.find(key)
    with pytest.raises(ModelNotReady, match=f"run `sangsang build .* --backend {BACKEND}`"):
        find_build(folder, key, cache)
    built = {r.module: r for r in build(folder, cache, "sm_89") if "sm_" in r.module}
    assert [name for name, report in built.items() if not report.reused] == ["text_encoder, sm_89"]
    assert cache.find(key)


@needs_library
def test_a_stale_key_finds_nothing(folder, cache, reports, monkeypatch):
    """Other adapters, another version of the library, another conversion: other engines."""
    bank = open_bank(folder)
    key = build_key(folder, "unet", "sm_89", bank)
    assert cache.find(key)
    wider = open_bank(folder)
    name = next(iter(wider.arrays))
    wider.arrays[name] = np.zeros((3, 3), np.float32)
    others = [build_key(folder, "unet", "sm_89", wider), build_key(folder, "unet", "sm_89", None)]
    monkeypatch.setattr(engines, "version", lambda _: "9.9")
    others.append(build_key(folder, "unet", "sm_89", bank))
    monkeypatch.undo()
    monkeypatch.setattr(engines, "CONVERSION_VERSION", "other")
    others.append(build_key(folder, "unet", "sm_89", bank))
    for other in others:
        with pytest.raises(NotBuilt):
            cache.find(other)


@needs_library
def test_engines_of_several_targets_lie_beside_a_model(folder, tmp_path):
    beside = EngineCache(tmp_path, single=True)
    paths = {beside.entry_path(build_key(folder, "vae_decoder", one, None)) for one in TARGETS}
    assert len(paths) == len(TARGETS)


@needs_library
def test_a_builder_that_is_killed_leaves_nothing(folder, tmp_path, reports, monkeypatch):
    cache = EngineCache(tmp_path / "cache")
    key = build_key(folder, "text_encoder", "sm_89", None)
    graph = reports["text_encoder"].path
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    with (
        monkeypatch.context() as patched,
        TensorRtRtxBuilder(folder, "text_encoder", graph, None, cache) as builder,
        pytest.raises(
            ModelNotReady, match=r"sm_89: its process was ended by SIGKILL.*build it again"
        ),
        cache.writing(key) as target,
    ):
        patched.setattr(builder_process, "_CHILD", "dying_builder")
        builder.build(target, "sm_89")
    with pytest.raises(NotBuilt):
        cache.find(key)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name == ENGINE_NAME]


def graph_of(path, *nodes, shape=("batch", 4, 4), opset=21):
    """A graph from x to y, f16."""
    x, y = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT16, s)
        for n, s in (("x", shape), ("y", None))
    )
    graph = helper.make_graph(list(nodes), "g", [x], [y])
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("nowhere", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


def build_engine(graph, engine, device, sizes):
    compute_capability = TARGETS[device]
    run_builder(BuildTask("tensorrt_rtx", str(graph), str(engine), (sizes,), compute_capability))


SIZES = {"x": ((1, 4, 4), (2, 4, 4), (8, 4, 4))}


@needs_library
@pytest.mark.parametrize(
    ("node", "said"),
    [
        (
            helper.make_node("Strange", ["x"], ["y"], "s", domain="nowhere"),
            "Strange s is not taken",
        ),
        (helper.make_node("Det", ["x"], ["y"], "d"), "Det d is not taken"),
    ],
)
def test_an_operator_that_it_does_not_know_is_named(tmp_path, node, said):
    graph = graph_of(tmp_path / "graph.onnx", node)
    with pytest.raises(ExportFailed, match=said):
        build_engine(graph, tmp_path / "engine", "sm_89", SIZES)
    assert not (tmp_path / "engine").exists()


@needs_library
def test_an_engine_is_for_the_target_that_was_asked_for(tmp_path):
    """Of a graph as small as this, two builds for one target are the same bytes."""
    graph = graph_of(tmp_path / "graph.onnx", helper.make_node("MatMul", ["x", "x"], ["y"]))
    contents = {}
    for device in (*TARGETS, "sm_89"):
        build_engine(graph, tmp_path / "engine", device, SIZES)
        content = (tmp_path / "engine").read_bytes()
        assert contents.setdefault(device, content) == content
    assert len(set(contents.values())) == len(TARGETS)


@needs_library
def test_a_failed_build_does_not_spoil_the_next(tmp_path):
    """Within one process it does: every build has its own."""
    bad = graph_of(tmp_path / "bad.onnx", helper.make_node("Det", ["x"], ["y"]))
    good = graph_of(tmp_path / "good.onnx", helper.make_node("Softmax", ["x"], ["y"]))
    with pytest.raises(ExportFailed):
        build_engine(bad, tmp_path / "engine", "sm_89", SIZES)
    build_engine(good, tmp_path / "engine", "sm_89", SIZES)
    assert (tmp_path / "engine").stat().st_size > 1000


@needs_library
def test_sizes_that_contradict_each_other_are_refused(tmp_path):
    graph = graph_of(tmp_path / "graph.onnx", helper.make_node("Softmax", ["x"], ["y"]))
    backwards = {"x": SIZES["x"][::-1]}
    with pytest.raises(ExportFailed):
        build_engine(graph, tmp_path / "engine", "sm_89", backwards)


def test_without_the_library_it_says_what_to_install(folder, tmp_path, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(engines, "version", missing)
    hint = r'install the extra: pip install "sangsang\[tensorrt-rtx\]"'
    with pytest.raises(ModelNotReady, match=hint):
        load_engine(folder, "unet", backend=BACKEND, cache=tmp_path)
    with pytest.raises(ModelNotReady, match=hint):
        build_model(folder, backend=BACKEND, cache_dir=tmp_path)


@needs_library
def test_what_cannot_be_compiled_is_not_exported_first(folder, tmp_path, monkeypatch):
    """An export takes minutes."""
    monkeypatch.setattr(build_module, "_build_module", None)
    with pytest.raises(ModelNotReady, match="'sm_90', only sm_80"):
        build(folder, EngineCache(tmp_path), "sm_90")


@needs_library
def test_a_target_that_it_does_not_have_is_named(folder, tmp_path):
    with pytest.raises(ModelNotReady, match="'sm_90', only sm_80, sm_86, sm_89, sm_120"):
        build_key(folder, "unet", "sm_90", None)


@needs_library
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_nothing_is_run_and_the_reason_is_told(folder, cache, reports):
    with pytest.raises(ModelNotReady, match=r"runs on an NVIDIA GPU.*take the backend onnxruntime"):
        load_engine(folder, "unet", backend=BACKEND, cache=cache)


@needs_library
@pytest.mark.parametrize(
    ("capability", "said"), [((9, 0), "no engines for this GPU, sm_90"), ((8, 9), "not built")]
)
def test_only_an_engine_for_this_gpu_is_looked_for(folder, tmp_path, monkeypatch, capability, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    with pytest.raises(ModelNotReady, match=said):
        load_engine(folder, "vae_decoder", backend=BACKEND, cache=tmp_path)


@needs_library
def test_sizes_are_those_that_a_request_may_ask_for(folder):
    sizes = range_profile(folder, "unet", open_bank(folder), engines.BATCH_ROWS)
    channels, tokens = folder.latent_channels, folder.token_limit
    assert sizes["sample"] == tuple((b, channels, s, s) for b, s in ((1, 4), (2, 8), (8, 16)))
    width = folder.embedding_width
    assert sizes["encoder_hidden_states"] == tuple((b, tokens, width) for b in (1, 2, 8))
    assert sizes["timestep"] == ((1,), (2,), (8,))
    encoder = range_profile(folder, "vae_encoder", None, engines.BATCH_ROWS)
    assert encoder["sample"] == tuple((b, 3, s, s) for b, s in ((1, 32), (2, 64), (8, 128)))
