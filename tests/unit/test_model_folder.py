"""What a model folder says about itself, and what is refused."""

import json
import shutil
import struct

import numpy as np
import pytest
from random_models import make_random_model

from sangsang.services.runtime.errors import ModelNotReady
from sangsang.services.runtime.models.folder import ModelFolder
from sangsang.services.runtime.models.weights import read_header


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_random_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "tiny")


def edit(file, **fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += raw
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    return path


def test_sizes_follow_the_configurations(tiny):
    folder = ModelFolder.open(tiny)
    assert folder.model_id == "tiny"
    assert (folder.latent_channels, folder.vae_scale, folder.size_multiple_px) == (4, 2, 4)
    assert (folder.default_width_px, folder.default_height_px) == (16, 16)
    assert (folder.token_limit, folder.embedding_width) == (16, 24)
    assert (folder.scaling_factor, folder.shift_factor) == (0.18215, 0.0)
    assert folder.scheduler_config["_class_name"] == "DDIMScheduler"


def test_sizes_of_the_stable_diffusion_family(tmp_path):
    folder = ModelFolder.open(make_random_model(tmp_path / "sd", variant="sd15_like"))
    assert (folder.vae_scale, folder.size_multiple_px, folder.token_limit) == (8, 64, 77)


def test_the_tokenizers_limit_counts_when_it_is_smaller(copy):
    edit(copy / "tokenizer" / "tokenizer_config.json", model_max_length=12)
    assert ModelFolder.open(copy).token_limit == 12
    edit(copy / "tokenizer" / "tokenizer_config.json", model_max_length=10**30)
    assert ModelFolder.open(copy).token_limit == 16


def test_model_id_comes_from_the_manifest(copy):
    (copy / "sangsang.json").write_text('{"model_id": "pocket"}')
    assert ModelFolder.open(copy).model_id == "pocket"


def test_digests_change_with_what_decides_the_result_and_with_nothing_else(copy):
    before = {m: ModelFolder.open(copy).digest(m) for m in ("text_encoder", "unet", "vae_decoder")}
    assert len(set(before.values())) == 3
    edit(copy / "scheduler" / "scheduler_config.json", beta_end=0.013)
    edit(copy / "tokenizer" / "tokenizer_config.json", note="x")
    edit(copy / "unet" / "config.json", note="x")
    after = {m: ModelFolder.open(copy).digest(m) for m in before}
    assert after["vae_decoder"] == before["vae_decoder"]
    assert after["text_encoder"] != before["text_encoder"]
    assert after["unet"] != before["unet"]


def test_a_weight_changed_in_place_changes_the_digest(copy):
    before = ModelFolder.open(copy).digest("unet")
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert ModelFolder.open(copy).digest("unet") != before


def test_not_a_folder(tmp_path):
    with pytest.raises(ModelNotReady, match="is not a folder"):
        ModelFolder.open(tmp_path / "absent")


def test_no_index(tmp_path):
    with pytest.raises(ModelNotReady, match=r"no model_index\.json"):
        ModelFolder.open(tmp_path)


def test_another_pipeline(copy):
    edit(copy / "model_index.json", _class_name="FluxPipeline")
    with pytest.raises(ModelNotReady, match="FluxPipeline"):
        ModelFolder.open(copy)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder", "tokenizer"])
def test_a_missing_component_is_named(copy, component):
    shutil.rmtree(copy / component)
    with pytest.raises(ModelNotReady, match=f"{component}/"):
        ModelFolder.open(copy)


def test_a_component_of_another_class(copy):
    edit(copy / "model_index.json", unet=["evil_module", "Anything"])
    with pytest.raises(ModelNotReady, match="unet is Anything"):
        ModelFolder.open(copy)


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt"])
def test_pickle_is_refused_by_name(copy, suffix):
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(suffix))
    name = f"diffusion_pytorch_model{suffix}"
    with pytest.raises(ModelNotReady, match=f"{name}.*safe_serialization=True"):
        ModelFolder.open(copy)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 7,
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 4) + b"{{{{",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 8) + b'{"a": 1}',
    ],
)
def test_a_corrupt_header(copy, content):
    (copy / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(content)
    with pytest.raises(ModelNotReady, match=r"vae.* is damaged"):
        ModelFolder.open(copy)


def test_a_truncated_file(copy):
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelNotReady, match="lies outside the file"):
        ModelFolder.open(copy)


def test_a_shard_index_may_not_point_elsewhere(copy):
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(copy / "stolen.safetensors")
    index = copy / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "../stolen.safetensors"}}')
    with pytest.raises(ModelNotReady, match=r"\.\./stolen"):
        ModelFolder.open(copy)


@pytest.mark.parametrize("component", ["unet", "vae"])
def test_a_missing_shard_is_named(tmp_path, component):
    path = make_random_model(tmp_path / "m", max_shard_size="60KB")
    shard = sorted((path / component).glob("*-00002-of-*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(ModelNotReady, match=shard.name):
        ModelFolder.open(path)


def test_widths_that_do_not_fit(copy):
    edit(copy / "unet" / "config.json", cross_attention_dim=99)
    with pytest.raises(ModelNotReady, match=r"width 99.*makes 24"):
        ModelFolder.open(copy)


def test_inpainting_unets_are_refused(copy):
    edit(copy / "unet" / "config.json", in_channels=9)
    with pytest.raises(ModelNotReady, match="takes 9 channels"):
        ModelFolder.open(copy)


def test_conditioning_that_no_stage_sends(copy):
    edit(copy / "unet" / "config.json", time_cond_proj_dim=256)
    with pytest.raises(ModelNotReady, match="time_cond_proj_dim=256"):
        ModelFolder.open(copy)


def test_every_float_dtype_is_read_as_f32(tmp_path):
    values = np.array([1.0, -2.5, 0.15625], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    path = write_safetensors(
        tmp_path / "x.safetensors",
        {
            "f64": ("F64", [3], values.astype(np.float64).tobytes()),
            "f32": ("F32", [3], values.tobytes()),
            "f16": ("F16", [3], values.astype(np.float16).tobytes()),
            "bf16": ("BF16", [1, 3], bits.tobytes()),
            "scalar": ("F32", [], values[:1].tobytes()),
        },
    )
    header = read_header(path)
    for name in ("f64", "f32", "f16", "bf16"):
        array = header[name].read()
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array.reshape(-1), values)
    assert header["bf16"].read().shape == (1, 3)
    assert header["scalar"].read().shape == ()


def test_opening_imports_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys, sangsang.services.runtime.models.folder, "
        "sangsang.services.runtime.models.manifest, sangsang.services.runtime.engines.loading\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'onnxruntime', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
