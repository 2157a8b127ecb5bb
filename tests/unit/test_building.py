"""Building: what is exported computes what torch computes, lies in its place, and is loaded."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_models import make_random_model
from safetensors.numpy import load_file, save_file

from sangsang.services.runtime.building.build import build_model
from sangsang.services.runtime.building.checking import check_export
from sangsang.services.runtime.building.export import example_inputs, export_module
from sangsang.services.runtime.building.failures import ExportFailed
from sangsang.services.runtime.engines.loading import load_engine
from sangsang.services.runtime.engines.onnx_runtime import OnnxRuntimeEngine
from sangsang.services.runtime.engines.torch_modules import load_module
from sangsang.services.runtime.engines.weightless import GRAPH_NAME, write_weight_list
from sangsang.services.runtime.errors import ModelNotReady, StageFailed
from sangsang.services.runtime.models.folder import MODULE_NAMES, ModelFolder

# Everything that the SD 1.5 family does not have and a diffusers folder may.
UNUSUAL = {
    # Half of 24 is no multiple of a vector register: the sine's tail.
    "block_out_channels": (24, 32),
    "attention_head_dim": (3, 4),
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
    "resnet_time_scale_shift": "scale_shift",
    "use_linear_projection": True,
    "layers_per_block": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model in f16 and in shards."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    return ModelFolder.open(make_random_model(path, half=True, max_shard_size="60KB"))


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def steps():
    return []


@pytest.fixture(scope="module")
def report(folder, cache_dir, steps):
    return build_model(folder, cache_dir=cache_dir, max_step_count=4, progress=steps.append)


@pytest.fixture
def built(folder, report):
    return folder


def test_every_module_is_built_and_agrees_with_torch(report):
    assert [module.module for module in report.modules] == list(MODULE_NAMES)
    assert not any(module.reused for module in report.modules)
    assert max(module.max_difference for module in report.modules) < 2e-5
    assert all(module.row_exact for module in report.modules)


def test_progress_names_each_phase(report, steps):
    unet = [step.phase for step in steps if step.part == "unet"]
    assert unet == ["looking", "loading", "exporting", "checking", "done"]
    assert (steps[-1].done_count, steps[-1].part_count) == (5, 5)


def test_graphs_hold_no_weights_and_no_trace_of_this_machine(folder, report):
    here = (str(folder.path.parent), sys.prefix, "site-packages", str(Path(__file__).parents[2]))
    for module in report.modules:
        assert module.size_bytes < 250_000
        for file in module.path.iterdir():
            content = file.read_bytes()
            assert not any(place.encode() in content for place in here)


def test_the_same_folder_gives_the_same_bytes(folder):
    network = load_module(folder, "text_encoder")
    first, second = (export_module(folder, "text_encoder", network) for _ in range(2))
    assert first == second


def test_a_second_build_reuses_the_first(built, cache_dir):
    again = build_model(built, cache_dir=cache_dir, max_step_count=4)
    assert all(module.reused for module in again.modules)


@pytest.mark.parametrize("module", MODULE_NAMES)
def test_an_engine_computes_what_torch_computes(built, cache_dir, module):
    engine = load_engine(built, module, cache=cache_dir)
    reference = load_engine(built, module, backend="torch")
    assert (engine.inputs, engine.outputs) == (reference.inputs, reference.outputs)
    assert (engine.name, engine.precision, engine.digest) == (module, "f32", reference.digest)
    inputs = example_inputs(built, module, batch=3, sides=(5, 6), seed=7)
    name = engine.outputs[0].name
    expected, actual = reference.infer(inputs)[name], engine.infer(inputs)[name]
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=2e-5)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("module", MODULE_NAMES)
def test_a_row_has_the_same_bits_in_any_batch_and_slot(built, cache_dir, module, threads):
    engine = load_engine(built, module, cache=cache_dir, threads=threads)
    name = engine.outputs[0].name
    inputs = example_inputs(built, module, batch=8, sides=(4, 6))
    together = engine.infer(inputs)[name]
    for batch in (1, 2, 3, 5):
        for first in (0, 8 - batch):
            part = slice(first, first + batch)
            alone = engine.infer({key: array[part] for key, array in inputs.items()})[name]
            np.testing.assert_array_equal(alone, together[part])


def test_bad_inputs_are_refused_before_the_backend_sees_them(built, cache_dir):
    engine = load_engine(built, "unet", cache=cache_dir)
    inputs = example_inputs(built, "unet", batch=1, sides=(2, 2))
    with pytest.raises(ValueError, match="multiples of 2"):
        engine.infer({**inputs, "sample": inputs["sample"][:, :, :3]})


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_a_closed_engine_says_so(built, cache_dir, backend):
    engine = load_engine(built, "text_encoder", backend=backend, cache=cache_dir)
    engine.close()
    with pytest.raises(StageFailed, match="text_encoder has been closed"):
        engine.infer(example_inputs(built, "text_encoder", batch=1, sides=(1, 1)))


def test_a_failure_of_the_backend_is_a_failed_stage(built, cache_dir):
    engine = load_engine(built, "text_encoder", cache=cache_dir)
    # Nobody notices before it that the tokens are none of the vocabulary's.
    unchecked = tuple(replace(spec, below=None) for spec in engine.inputs)
    engine._signature = replace(engine._signature, inputs=unchecked)
    tokens = np.full((1, built.token_limit), 10**6, np.int64)
    with pytest.raises(StageFailed, match="text_encoder failed in ONNX Runtime"):
        engine.infer({"input_ids": tokens})


def test_what_is_not_built_says_what_to_do(folder, tmp_path):
    with pytest.raises(ModelNotReady, match="run `sangsang build"):
        load_engine(folder, "unet", cache=tmp_path)


def test_an_unknown_backend_is_named(folder):
    with pytest.raises(ModelNotReady, match="no backend 'abacus'; there are onnxruntime, openvino"):
        load_engine(folder, "unet", backend="abacus")


def test_builds_beside_a_model_travel_with_it(built, cache_dir, tmp_path):
    copy = ModelFolder.open(shutil.copytree(built.path, tmp_path / "moved"))
    report = build_model(copy, cache_dir=cache_dir, beside=True, max_step_count=4)
    assert all(module.path.is_relative_to(copy.path / "engines") for module in report.modules)
    engine = load_engine(copy, "unet", cache=tmp_path / "empty")
    assert engine.digest == built.digest("unet")


def test_a_build_of_other_weights_is_not_loaded(built, cache_dir, tmp_path):
    path = shutil.copytree(built.path, tmp_path / "changed")
    source = built.weight_files("unet")[0].name
    tensors = load_file(path / "unet" / source)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, path / "unet" / source)
    with pytest.raises(ModelNotReady, match="run `sangsang build"):
        load_engine(ModelFolder.open(path), "unet", cache=cache_dir)


def test_a_damaged_build_is_refused_and_built_again(built, report, cache_dir, tmp_path):
    cache = shutil.copytree(cache_dir, tmp_path / "cache")
    encoder = cache / report.modules[0].path.relative_to(cache_dir)
    (encoder / GRAPH_NAME).write_bytes(b"damage")
    with pytest.raises(ModelNotReady, match="not the file that was built"):
        load_engine(built, "text_encoder", cache=cache)
    again = build_model(built, cache_dir=cache, max_step_count=4)
    assert [module.reused for module in again.modules] == [False, True, True, True]
    load_engine(built, "text_encoder", cache=cache)


def test_an_export_that_computes_something_else_is_refused(built, report):
    network = load_module(built, "vae_decoder")
    network.decoder.conv_out.bias.data += 0.01
    path = next(module.path for module in report.modules if module.module == "vae_decoder")
    with pytest.raises(ExportFailed, match="vae_decoder differs from torch"):
        check_export(built, "vae_decoder", path, network)


def test_serving_imports_neither_torch_nor_what_builds(built, cache_dir):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from sangsang.services.runtime.engines.loading import load_engine\n"
        "from sangsang.services.runtime.models.folder import MODULE_NAMES, ModelFolder\n"
        "folder = ModelFolder.open(Path(sys.argv[1]))\n"
        "for module in MODULE_NAMES:\n"
        "    load_engine(folder, module, cache=Path(sys.argv[2]))\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'onnx', 'onnxscript'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, str(built.path), str(cache_dir)], check=True)


def export_and_check(folder, module, target):
    network = load_module(folder, module)
    exported = export_module(folder, module, network)
    target.mkdir()
    (target / GRAPH_NAME).write_bytes(exported.content)
    write_weight_list(target / GRAPH_NAME, exported.weights)
    return exported, check_export(folder, module, target, network)


def test_an_unusual_unet(tmp_path):
    folder = ModelFolder.open(make_random_model(tmp_path / "unusual", unet=UNUSUAL))
    _, check = export_and_check(folder, "unet", tmp_path / "build")
    assert check.max_difference < 2e-5
    assert check.row_exact


def test_a_vae_without_quantisation_convolutions(tmp_path):
    plain = {"use_quant_conv": False, "use_post_quant_conv": False}
    folder = ModelFolder.open(make_random_model(tmp_path / "plain", vae=plain))
    exported, check = export_and_check(folder, "vae_decoder", tmp_path / "build")
    assert "post_quant_conv.weight" not in exported.weights
    assert check.max_difference < 2e-5


def rename_weights(file, renames):
    tensors = load_file(file)
    save_file({renames(name): tensor for name, tensor in tensors.items()}, file)


def test_weights_under_the_names_of_older_libraries(tmp_path):
    """diffusers and transformers translate them when they load; the file keeps its own names."""
    path = make_random_model(tmp_path / "old")

    def old(name):
        for new, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value")):
            name = name.replace(new, before)
        return name.replace("to_out.0", "proj_attn")

    rename_weights(path / "vae" / "diffusion_pytorch_model.safetensors", old)
    rename_weights(path / "text_encoder" / "model.safetensors", lambda name: f"text_model.{name}")
    folder = ModelFolder.open(path)
    for module in ("vae_decoder", "text_encoder"):
        exported, check = export_and_check(folder, module, tmp_path / module)
        assert check.max_difference < 2e-5
        assert set(exported.weights) <= set(folder.weights(module).tensors)
        assert len(exported.content) < 60_000
    assert "decoder.mid_block.attentions.0.query.weight" in exported_names(folder, tmp_path)


def exported_names(folder, tmp_path):
    return (tmp_path / "vae_decoder" / "weights.json").read_text()


def test_a_graph_that_does_not_fit_the_weights_is_refused(built, report, tmp_path):
    build = shutil.copytree(report.modules[0].path, tmp_path / "build")
    (build / "weights.json").write_text('{"no.such.weight": [1]}')
    with pytest.raises(ModelNotReady, match=r"does not fit the model's no\.such\.weight"):
        OnnxRuntimeEngine(built, "text_encoder", build)
