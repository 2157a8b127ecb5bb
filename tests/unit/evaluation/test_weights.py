"""A tier's weights: the folder's own, an adapter to them, or another UNet."""

import shutil

import pytest
from other_weights import add_adapter, add_unet, write_manifest
from random_models import make_random_model

from sangsang.services.diffusion.evaluation.weights import open_pipeline, open_weights
from sangsang.services.runtime.errors import ModelNotReady

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = make_random_model(tmp_path_factory.mktemp("models") / "tiny")
    add_adapter(path)
    add_unet(path)
    write_manifest(
        path,
        weights={
            "student": {"adapter": "adapters/student"},
            "student_full": {"unet": "student_unet"},
        },
    )
    return path


def parameters(folder, name):
    return open_pipeline(folder, open_weights(folder, name)).unet.state_dict()


def test_base_is_the_folders_own(folder):
    assert open_weights(folder, "base").kind == "base"


def test_another_unet_takes_the_place_of_the_folders_own(folder):
    base, other = parameters(folder, "base"), parameters(folder, "student_full")
    assert other.keys() == base.keys()
    for name, value in base.items():
        assert (other[name] == value * 0.5).all(), name


def test_an_adapter_is_merged_into_the_layers_it_adapts(folder):
    base, adapted = parameters(folder, "base"), parameters(folder, "student")
    assert adapted.keys() == base.keys()
    changed = {name for name, value in base.items() if not adapted[name].equal(value)}
    assert changed
    assert all(any(f".{layer}." in name for layer in ("to_q", "to_v", "conv1")) for name in changed)


def test_a_merged_adapter_computes_what_it_computes_beside_the_unet(folder):
    import torch

    merged = open_pipeline(folder, open_weights(folder, "student"))
    beside = open_pipeline(folder, open_weights(folder, "base"))
    beside.load_lora_weights(folder / "adapters" / "student")
    inputs = (torch.randn(1, 4, 8, 8), 7, torch.randn(1, 16, 24))
    with torch.no_grad():
        first, second = merged.unet(*inputs).sample, beside.unet(*inputs).sample
    assert torch.allclose(first, second, atol=1e-5)


def test_weights_stored_as_fp16_are_found(tmp_path):
    path = make_random_model(tmp_path / "half", half=True)
    assert str(open_pipeline(path, open_weights(path, "base")).unet.dtype) == "torch.float32"


def test_a_set_that_the_manifest_does_not_have_is_refused(folder):
    with pytest.raises(ModelNotReady, match=r"weights\.unheard must say where the weights lie"):
        open_weights(folder, "unheard")


def test_a_set_whose_files_are_missing_is_refused(folder, tmp_path):
    lost = shutil.copytree(folder, tmp_path / "lost")
    shutil.rmtree(lost / "adapters" / "student")
    with pytest.raises(ModelNotReady, match="pytorch_lora_weights"):
        open_weights(lost, "student")
