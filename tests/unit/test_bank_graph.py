"""A UNet with a bank: what torch computes, the same bits beside any neighbours and any bank."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from random_adapters import ATTENTION, make_random_adapter
from random_models import make_random_model

from sangsang.services.runtime.building.checking import check_export
from sangsang.services.runtime.building.export import example_inputs, export_module
from sangsang.services.runtime.building.failures import ExportFailed
from sangsang.services.runtime.engines.adapter_bank import open_bank
from sangsang.services.runtime.engines.cache import EngineCache
from sangsang.services.runtime.engines.loading import load_engine
from sangsang.services.runtime.engines.onnx_runtime import OnnxRuntimeEngine, build_key
from sangsang.services.runtime.engines.torch_modules import load_module
from sangsang.services.runtime.engines.weightless import GRAPH_NAME, write_weight_list
from sangsang.services.runtime.errors import ModelNotReady
from sangsang.services.runtime.models.adapters import adapted_layers
from sangsang.services.runtime.models.folder import ModelFolder

SETS = {"student": {"adapter": "adapters/student"}, "style": {"adapter": "adapters/style"}}


def name_sets(path, sets):
    (path / "sangsang.json").write_text(json.dumps({"weights": sets}))
    return ModelFolder.open(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two adapters: one of every layer, its ranks differing, and one of attention, of rank 1."""
    path = make_random_model(tmp_path_factory.mktemp("models") / "tiny")
    ranks = {"r": 4, "rank_pattern": {"conv1": 2, "to_q": 7}, "lora_alpha": 9}
    make_random_adapter(path, path / "adapters" / "student", **ranks)
    make_random_adapter(path, path / "adapters" / "style", seed=1, targets=ATTENTION, r=1)
    return name_sets(path, SETS)


@pytest.fixture(scope="module")
def cache_dir(folder, tmp_path_factory):
    """A cache with the UNet built, and nothing else."""
    path = tmp_path_factory.mktemp("cache")
    exported = export_module(folder, "unet", load_module(folder, "unet"), adapted_layers(folder))
    with EngineCache(path).writing(build_key(folder, "unet")) as target:
        (target / GRAPH_NAME).write_bytes(exported.content)
        write_weight_list(target / GRAPH_NAME, exported.weights)
    return path


def inputs_of(folder, batch, sides=(3, 4), *, tokens=None):
    inputs = example_inputs(folder, "unet", batch, sides)
    if tokens is not None:
        inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"][:, :tokens]
    scales = np.random.default_rng(1).uniform(-1, 2, (batch, 2)).astype(np.float32)
    scales[1::2] = 0
    return {**inputs, "adapter_scale": scales}


def test_the_check_of_a_build_covers_the_bank(folder, cache_dir):
    build = EngineCache(cache_dir).find(build_key(folder, "unet"))
    network = load_module(folder, "unet")
    check = check_export(folder, "unet", build, network, adapted_layers(folder))
    assert check.max_difference < 2e-5
    assert check.row_exact
    network.model.conv_in.bias.data += 0.05
    with pytest.raises(ExportFailed, match="unet differs from torch"):
        check_export(folder, "unet", build, network, adapted_layers(folder))


def test_an_engine_computes_what_torch_computes(folder, cache_dir):
    engine = load_engine(folder, "unet", cache=cache_dir)
    reference = load_engine(folder, "unet", backend="torch")
    assert engine.inputs == reference.inputs
    inputs = inputs_of(folder, 4)
    expected, actual = (e.infer(inputs)["out_sample"] for e in (reference, engine))
    np.testing.assert_allclose(actual, expected, atol=2e-5)
    plain = engine.infer({k: v for k, v in inputs.items() if k != "adapter_scale"})["out_sample"]
    np.testing.assert_array_equal(plain[1], actual[1])
    assert np.abs(plain[0] - actual[0]).max() > 0.01


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("sides", "tokens"), [((3, 4), None), ((1, 1), None), ((2, 1), 1)], ids=str
)
def test_a_row_has_the_same_bits_in_any_batch_and_slot(folder, cache_dir, sides, tokens, threads):
    engine = load_engine(folder, "unet", cache=cache_dir, threads=threads)
    inputs = inputs_of(folder, 8, sides, tokens=tokens)
    together = engine.infer(inputs)["out_sample"]
    for batch in (1, 2, 3, 5):
        for first in range(9 - batch):
            part = slice(first, first + batch)
            alone = engine.infer({key: array[part] for key, array in inputs.items()})["out_sample"]
            np.testing.assert_array_equal(alone, together[part])


def test_products_are_computed_for_the_rows_alone_that_use_them(folder, cache_dir):
    bank = open_bank(folder)
    for array in bank.arrays.values():
        if array.dtype == np.float32:
            array.fill(np.nan)
    build = EngineCache(cache_dir).find(build_key(folder, "unet"))
    engine = OnnxRuntimeEngine(folder, "unet", build, bank=bank)
    inputs = inputs_of(folder, 2)
    inputs["adapter_scale"][:] = 0
    # Zero times NaN is NaN: what was computed would show.
    assert np.isfinite(engine.infer(inputs)["out_sample"]).all()
    inputs["adapter_scale"][1, 0] = -0.5
    output = engine.infer(inputs)["out_sample"]
    assert np.isfinite(output[0]).all()
    assert np.isnan(output[1]).all()


def test_own_rows_do_not_depend_on_what_is_in_the_bank(folder, cache_dir, tmp_path):
    path = shutil.copytree(folder.path, tmp_path / "changed")
    other = {"seed": 5, "r": 11, "lora_alpha": 50}
    make_random_adapter(path, path / "adapters" / "student", **other)
    changed = ModelFolder.open(path)
    assert build_key(changed, "unet") == build_key(folder, "unet")
    outputs = [
        load_engine(one, "unet", cache=cache_dir).infer(inputs_of(folder, 4))["out_sample"]
        for one in (folder, changed)
    ]
    np.testing.assert_array_equal(outputs[0][1::2], outputs[1][1::2])
    assert not np.array_equal(outputs[0][0], outputs[1][0])


def test_the_key_holds_the_adapted_layers(folder, cache_dir, tmp_path):
    key = build_key(folder, "unet")
    path = shutil.copytree(folder.path, tmp_path / "copy")
    fewer = build_key(name_sets(path, {"style": SETS["style"]}), "unet")
    plain = build_key(name_sets(path, {}), "unet")
    assert len({key.profile, fewer.profile, plain.profile}) == 3
    assert plain.profile == "dynamic"
    assert build_key(name_sets(path, {"second": {"unet": "unet"}}), "unet") == plain
    with pytest.raises(ModelNotReady, match="run `sangsang build"):
        load_engine(ModelFolder.open(path), "unet", cache=cache_dir)


def test_a_layer_that_cannot_be_adapted_is_named(folder):
    with pytest.raises(ExportFailed, match="conv_norm_out cannot be adapted"):
        export_module(folder, "unet", load_module(folder, "unet"), ["conv_norm_out"])


def test_a_second_unet_of_another_architecture_is_refused(folder, tmp_path):
    path = shutil.copytree(folder.path, tmp_path / "copy")
    wider = make_random_model(tmp_path / "wider", unet={"block_out_channels": (16, 64)})
    shutil.copytree(wider / "unet", path / "second")
    with pytest.raises(ModelNotReady, match=r"another architecture.*block_out_channels"):
        ModelFolder.open(path).with_unet("second")


def test_serving_a_bank_imports_nothing_heavy(folder, cache_dir):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from sangsang.services.runtime.engines.loading import load_engine\n"
        "from sangsang.services.runtime.models.folder import ModelFolder\n"
        "load_engine(ModelFolder.open(Path(sys.argv[1])), 'unet', cache=Path(sys.argv[2]))\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'peft', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    arguments = [str(folder.path), str(cache_dir)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
