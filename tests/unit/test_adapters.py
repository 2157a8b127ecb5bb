"""Adapters: what is read from diffusers' file is what peft computes, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from random_adapters import ATTENTION, make_random_adapter
from random_models import make_random_model
from safetensors.numpy import load_file, save_file

from sangsang.services.runtime.engines.adapter_bank import AdapterBank, bank_input_names, open_bank
from sangsang.services.runtime.errors import ModelNotReady
from sangsang.services.runtime.models.adapters import adapted_layers, read_adapter
from sangsang.services.runtime.models.folder import ModelFolder

FILE = "pytorch_lora_weights.safetensors"
QUERY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_random_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def store(tiny):
    return ModelFolder.open(tiny).weights("unet")


@pytest.fixture(scope="module")
def every(tiny, tmp_path_factory):
    """An adapter of every layer; the middle has another rank and alpha."""
    path = tmp_path_factory.mktemp("adapters") / "every"
    patterns = {
        "rank_pattern": {"conv_in": 2, "mid_block.*": 6},
        "alpha_pattern": {"mid_block.*": 9},
    }
    return make_random_adapter(tiny, path, lora_alpha=10, **patterns)


def delta(low_rank):
    down = low_rank.down.reshape(low_rank.rank, -1)
    return low_rank.up.reshape(-1, low_rank.rank) @ down


def loaded(tiny, adapter):
    """The UNet with an adapter, as diffusers loads it."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    unet = UNet2DConditionModel.from_pretrained(tiny / "unet")
    state, alphas, metadata = Loader.lora_state_dict(adapter, return_lora_metadata=True)
    Loader.load_lora_into_unet(state, alphas, unet, metadata=metadata)
    return unet


def merged(tiny, adapter, layer):
    """What diffusers adds to a layer's weight."""
    adapted = loaded(tiny, adapter).get_submodule(layer)
    return adapted.get_delta_weight("default_0").detach().flatten(1).numpy()


@pytest.mark.parametrize("layer", [QUERY, "conv_in", "up_blocks.0.resnets.0.time_emb_proj"])
@pytest.mark.parametrize(
    "config",
    [
        {"lora_alpha": 10, "rank_pattern": {"conv_in": 2}, "alpha_pattern": {"to_q": 3}},
        {"lora_alpha": 5, "use_rslora": True},
        {"lora_alpha": 10, "rank_pattern": {"to_q": 3}, "metadata": False},
    ],
    ids=["patterns", "rslora", "no_metadata"],
)
def test_an_adapter_adds_what_diffusers_adds(tiny, store, tmp_path, config, layer):
    path = make_random_adapter(tiny, tmp_path, **config)
    adapter = read_adapter(path / FILE, "any", store)
    np.testing.assert_allclose(delta(adapter.layers[layer]), merged(tiny, path, layer), atol=1e-6)


def test_older_names_of_attention_layers_are_read(tiny, store, tmp_path):
    path = make_random_adapter(tiny, tmp_path, targets=ATTENTION, old_names=True, lora_alpha=9)
    assert all(".lora.down." in n or ".lora.up." in n for n in load_file(path / FILE))
    adapter = read_adapter(path / FILE, "any", store)
    np.testing.assert_allclose(delta(adapter.layers[QUERY]), merged(tiny, path, QUERY), atol=1e-6)


def test_mixed_names_are_refused_because_diffusers_drops_the_older_ones(tiny, store, tmp_path):
    path = make_random_adapter(tiny, tmp_path, old_names=True)
    with pytest.warns(RuntimeWarning, match="additional target modules"):
        unet = loaded(tiny, path)
    assert hasattr(unet.conv_in, "base_layer")
    assert not hasattr(unet.get_submodule(QUERY), "base_layer")
    with pytest.raises(ModelNotReady, match="without convert_state_dict_to_diffusers"):
        read_adapter(path / FILE, "any", store)


def rewritten(every, tmp_path, change, metadata=None):
    path = shutil.copytree(every, tmp_path / "changed") / FILE
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata)
    return path


def put(name, value):
    return lambda tensors: tensors.update({name: value})


A, B = f"unet.{QUERY}.lora_A.weight", f"unet.{QUERY}.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tensors: tensors.pop(A), f"{QUERY} lacks a matrix"),
        (lambda tensors: tensors.clear(), "every layer lacks a matrix"),
        (put(A, np.zeros((6, 31), np.float32)), f"{QUERY} has matrices of"),
        (put(B, np.zeros((32, 5), np.float32)), f"{QUERY} has matrices of"),
        (put(A, np.full((6, 32), np.nan, np.float32)), f"{QUERY} has values"),
        (put(B, np.full((32, 6), 1e30, np.float32)), f"{QUERY} has values"),
        (put("unet.nowhere.lora_A.weight", np.zeros((4, 4), np.float32)), "nowhere lacks"),
        (put("text_encoder.x.lora_A.weight", np.zeros((4, 4), np.float32)), "text_encoder.x"),
        (put("lora_unet_x.alpha", np.zeros(1, np.float32)), "lora_unet_x.alpha"),
        (put(f"unet.{QUERY}.lora_magnitude_vector", np.zeros(32, np.float32)), "magnitude"),
    ],
)
def test_what_does_not_fit_names_the_layer(every, store, tmp_path, change, named):
    path = rewritten(every, tmp_path, change)
    with pytest.raises(ModelNotReady) as caught:
        read_adapter(path, "any", store)
    assert named in caught.value.message


def test_a_layer_that_the_unet_lacks_is_named(every, store, tmp_path):
    def add(tensors):
        tensors["unet.nowhere.lora_A.weight"] = np.zeros((4, 4), np.float32)
        tensors["unet.nowhere.lora_B.weight"] = np.zeros((4, 4), np.float32)

    with pytest.raises(ModelNotReady, match="the UNet has no layer nowhere"):
        read_adapter(rewritten(every, tmp_path, add), "any", store)


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ("{", "lora_adapter_metadata"),
        ("[]", "lora_adapter_metadata"),
        ('{"unet.use_dora": true}', "use_dora"),
        ('{"unet.lora_alpha": "eight"}', "the scale of conv_in"),
        ('{"unet.lora_alpha": NaN}', "values that are not finite"),
        ('{"unet.alpha_pattern": {"(": 1}}', "the scale of conv_in"),
    ],
)
def test_a_configuration_that_is_not_served_is_refused(every, store, tmp_path, metadata, named):
    path = rewritten(every, tmp_path, lambda tensors: None, {"lora_adapter_metadata": metadata})
    with pytest.raises(ModelNotReady) as caught:
        read_adapter(path, "any", store)
    assert named in caught.value.message


def test_a_bank_lays_slots_side_by_side(tiny, every, store, tmp_path):
    other = make_random_adapter(tiny, tmp_path, targets=ATTENTION, r=3, lora_alpha=3)
    adapters = [read_adapter(path / FILE, path.name, store) for path in (every, other)]
    bank = AdapterBank(adapters, store)
    down, up, slot = (bank.arrays[name] for name in bank_input_names(QUERY))
    assert slot.tolist() == [0] * 6 + [1] * 3
    np.testing.assert_array_equal(down[:, :6], adapters[0].layers[QUERY].down.T)
    np.testing.assert_array_equal(up[6:], adapters[1].layers[QUERY].up.T)
    # conv_in has a rank of 2, and the second adapter leaves it alone.
    assert [bank.arrays[n].shape for n in bank_input_names("conv_in")] == [
        (2, 4, 3, 3),
        (16, 2, 1, 1),
        (2,),
    ]


def test_a_single_column_gets_a_second(tiny, store, tmp_path):
    path = make_random_adapter(tiny, tmp_path, r=1)
    bank = AdapterBank([read_adapter(path / FILE, "narrow", store)], store)
    down, up, slot = (bank.arrays[name] for name in bank_input_names(QUERY))
    assert (down.shape, up.shape, slot.tolist()) == ((32, 2), (2, 32), [0, 0])
    assert not down[:, 1].any()


def test_a_bank_that_the_network_has_no_inputs_for_is_refused(every, store):
    adapter = read_adapter(every / FILE, "every", store)
    with pytest.raises(ModelNotReady, match="without a bank for conv_in"):
        AdapterBank([adapter], store, [name for name in adapter.layers if name != "conv_in"])


def test_the_manifest_names_the_adapters(tiny, every, tmp_path):
    path = shutil.copytree(tiny, tmp_path / "model")
    folder = ModelFolder.open(path)
    assert open_bank(folder) is None
    assert adapted_layers(folder) == ()
    shutil.copytree(every, path / "adapters" / "student")
    sets = {"student": {"adapter": "adapters/student"}}
    (path / "sangsang.json").write_text(json.dumps({"weights": sets}))
    bank = open_bank(folder)
    assert bank.slot_names == ("student",)
    assert bank.layers == adapted_layers(folder)
