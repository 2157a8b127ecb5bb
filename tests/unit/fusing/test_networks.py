"""The pass on whole networks: how many nodes it fuses, and that they compute the same."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from fused_networks import (
    SD15,
    SDXL,
    assert_same,
    random_unet,
    standard_counts,
    text_counts,
    unet_counts,
    vae_counts,
)
from random_models import make_random_model

from sangsang.services.runtime.building.export import example_inputs, export_module
from sangsang.services.runtime.building.fusing.fuse import DOMAIN, PATTERNS, fuse_graph
from sangsang.services.runtime.building.half_precision import static_graph, to_half_precision
from sangsang.services.runtime.engines.adapter_bank import open_bank
from sangsang.services.runtime.engines.tensor_rt_sizes import bank_shapes
from sangsang.services.runtime.engines.torch_modules import load_module
from sangsang.services.runtime.engines.weightless import GRAPH_NAME, read_weights
from sangsang.services.runtime.models.adapters import adapted_layers
from sangsang.services.runtime.models.folder import MODULE_NAMES, ModelFolder

POCKET = Path(__file__).parents[3] / "deploy" / "models" / "pocket"
EINSUM = "ScaledAttention: Einsum comes before it, not MatMul or Add"


@pytest.fixture(scope="module")
def pocket():
    return ModelFolder.open(POCKET)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return ModelFolder.open(make_random_model(tmp_path_factory.mktemp("models") / "tiny"))


def counts_of(folder, module):
    """What a module of a folder must fuse to, from its configuration."""
    config = json.loads((folder.component_path(module) / "config.json").read_text("utf-8"))
    if module == "unet":
        return unet_counts(config)
    return text_counts(config) if module == "text_encoder" else vae_counts(config, module)


def feeds_of(folder, module):
    feeds = example_inputs(folder, module, 3, (4, 6))
    bank = open_bank(folder) if module == "unet" else None
    if bank is None:
        return feeds
    scales = np.random.default_rng(0).uniform(-1, 2, (3, len(bank.slot_names)))
    return {**feeds, **bank.arrays, "adapter_scale": scales.astype(np.float32)}


def assert_sound(content):
    model = onnx.ModelProto.FromString(content)
    checked = onnx.ModelProto.FromString(content)
    # The checker looks for the weights' file, which is nowhere.
    for weight in checked.graph.initializer:
        if weight.data_location == onnx.TensorProto.EXTERNAL:
            kind = (weight.name, weight.data_type, weight.dims)
            checked.graph.input.append(onnx.helper.make_tensor_value_info(*kind))
    own = [w for w in checked.graph.initializer if w.data_location != onnx.TensorProto.EXTERNAL]
    del checked.graph.initializer[:]
    checked.graph.initializer.extend(own)
    onnx.checker.check_model(checked)
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    assert {function.name for function in model.functions} == used
    return model


@pytest.mark.parametrize("module", MODULE_NAMES)
def test_the_shipped_graphs(pocket, module):
    path = POCKET / "engines" / "onnxruntime" / module / GRAPH_NAME
    plain = path.read_bytes()
    fused = fuse_graph(plain)
    assert_sound(fused.content)
    assert fused.report.counts == counts_of(pocket, module)
    weights = read_weights(path, pocket.weights(module))
    assert_same(plain, fused.content, feeds_of(pocket, module), weights)


def test_what_is_left_of_the_shipped_graphs_is_said(pocket):
    left = {}
    for module in MODULE_NAMES:
        path = POCKET / "engines" / "onnxruntime" / module / GRAPH_NAME
        left[module] = fuse_graph(path.read_bytes()).report.left
    # CLIP's quick gelu, and the pooling of the text for the time's embedding.
    assert [one.op_type for one in left["text_encoder"]] == ["Sigmoid"] * 2
    assert [(one.op_type, one.reasons[0]) for one in left["unet"]] == [("Softmax", EINSUM)]
    assert left["vae_encoder"] == left["vae_decoder"] == ()


def test_the_bank_of_the_shipped_unet(pocket):
    """Without its branches, as compilers get it: every adapted layer of tokens is one more node."""
    path = POCKET / "engines" / "onnxruntime" / "unet" / GRAPH_NAME
    model = onnx.load(path, load_external_data=False)
    plain = static_graph(model).SerializeToString()
    fused = fuse_graph(plain)
    assert_sound(fused.content)
    adapted = Counter(kind_of(layer) for layer in adapted_layers(pocket))
    assert adapted["tokens"] > 0
    assert fused.report.counts == {**counts_of(pocket, "unet"), "LoraBank": adapted["tokens"]}
    left = Counter(one.reasons[0] for one in fused.report.left if one.op_type == "Gather")
    assert left == {
        "LoraBank: Conv comes before it, not MatMul": adapted["pictures"],
        "LoraBank: Split follows it, not Add": adapted["rows"],
    }
    weights = read_weights(path, pocket.weights("unet"))
    feeds = feeds_of(pocket, "unet")
    assert_same(plain, fused.content, feeds, weights)
    feeds["adapter_scale"][1] = 0
    assert_same(plain, fused.content, feeds, weights)


def kind_of(layer):
    """What goes into an adapted layer of a UNet: tokens, pictures, or one row for each of them."""
    # The text is pooled into a single token for the time's embedding, of which only one is asked.
    single = ("time_emb", "add_embedding.pool.q_proj", "add_embedding.proj")
    if any(part in layer for part in single):
        return "rows"
    return "tokens" if "transformer_blocks" in layer or "pool" in layer else "pictures"


def test_a_fused_bank_in_half_precision_keeps_its_scales(pocket):
    path = POCKET / "engines" / "onnxruntime" / "unet" / GRAPH_NAME
    weights, bank = read_weights(path, pocket.weights("unet")), open_bank(pocket)
    plain = static_graph(onnx.load(path, load_external_data=False)).SerializeToString()
    only = fuse_graph(plain, [pattern for pattern in PATTERNS if pattern.name == "LoraBank"])
    fused = onnx.ModelProto.FromString(only.content)
    half = to_half_precision(fused, weights, bank_shapes(bank))
    banks = [node for node in half.graph if node.op_type == "LoraBank"]
    assert len(banks) == only.report.counts["LoraBank"]
    half_types = [ir.DataType.FLOAT16] * 4
    for node in banks:
        assert [value.dtype for value in node.inputs] == [*half_types, ir.DataType.FLOAT]
        assert node.outputs[0].dtype == ir.DataType.FLOAT16


@pytest.mark.parametrize("module", ["text_encoder", "vae_decoder"])
def test_random_modules_of_the_exporter(tiny, tmp_path, module):
    exported = export_module(tiny, module, load_module(tiny, module))
    fused = fuse_graph(exported.content)
    assert_sound(fused.content)
    assert fused.report.counts == counts_of(tiny, module)
    assert fused.report.left == ()
    store = tiny.weights(module)
    weights = {name: store.read(name).reshape(shape) for name, shape in exported.weights.items()}
    assert_same(exported.content, fused.content, feeds_of(tiny, module), weights)


@pytest.mark.parametrize("config", [SD15, SDXL], ids=["sd15", "sdxl"])
def test_random_unets(config):
    model, feeds = random_unet(config)
    plain = ir.to_proto(model).SerializeToString()
    fused = fuse_graph(plain)
    assert_sound(fused.content)
    assert fused.report.counts == unet_counts(config)
    assert fused.report.left == ()
    assert_same(plain, fused.content, feeds)
    remaining = standard_counts(ir.from_proto(onnx.ModelProto.FromString(fused.content)).graph)
    gone = {"GroupNormalization", "LayerNormalization", "Softmax", "Sigmoid", "Gelu", "Split"}
    assert not gone & set(remaining)


def test_fusing_twice_changes_nothing():
    plain = (POCKET / "engines" / "onnxruntime" / "vae_decoder" / GRAPH_NAME).read_bytes()
    once = fuse_graph(plain).content
    twice = fuse_graph(once)
    assert twice.content == once
    assert twice.report.replaced == ()
