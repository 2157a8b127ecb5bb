"""Finding engines of TensorRT: never a wrong one is loaded, and what is missing is said."""

import shutil
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from host_device import GPU
from scripted_machine import POCKET, build_one, key, load

from sangsang.kernels.compiling import catalogue
from sangsang.services.runtime.building import build as build_module
from sangsang.services.runtime.building.build import build_model
from sangsang.services.runtime.engines import tensor_rt
from sangsang.services.runtime.engines.adapter_bank import open_bank
from sangsang.services.runtime.engines.cache import EngineCache, NotBuilt
from sangsang.services.runtime.engines.cuda_device import CudaDevice
from sangsang.services.runtime.engines.tensor_rt import BACKEND, PLAN_NAME, build_key
from sangsang.services.runtime.errors import ModelNotReady
from sangsang.services.runtime.models.folder import ModelFolder

pytestmark = pytest.mark.skipif(
    find_spec("tensorrt_bindings") is None or find_spec("triton") is None,
    reason="TensorRT's plugin layer or triton is missing: pip install 'sangsang[kernels-test]'",
)


@pytest.mark.parametrize("harm", ["cut", "changed", "removed", "writable"])
def test_a_damaged_plan_is_not_deserialised(folder, machine, own_cache, harm):
    entry = own_cache.entry_path(key(folder, "text_encoder"))
    plan = entry / PLAN_NAME
    content = plan.read_bytes()
    if harm == "removed":
        plan.unlink()
    elif harm == "writable":
        entry.chmod(0o777)
    else:
        plan.write_bytes(content[:-1] if harm == "cut" else content[:-1] + b"?")
    with pytest.raises(ModelNotReady, match=r"run `sangsang build .* --backend tensorrt`"):
        load(folder, "text_encoder", own_cache)
    assert machine.calls == []


def test_a_damaged_plan_is_built_again(folder, machine, own_cache):
    (own_cache.entry_path(key(folder, "text_encoder")) / PLAN_NAME).write_bytes(b"?")
    assert not build_one(folder, "text_encoder", own_cache).reused
    load(folder, "text_encoder", own_cache).close()


def test_a_plan_beside_a_model_is_not_looked_at(folder, machine, built, tmp_path):
    """It came with the model, from anywhere; its own list of sums proves nothing."""
    model = tmp_path / "model"
    shutil.copytree(POCKET, model)
    cache, _ = built
    other = ModelFolder.open(model)
    entry = cache.entry_path(key(other, "vae_decoder"))
    shutil.copytree(entry, EngineCache.beside(other).entry_path(key(other, "vae_decoder")))
    with pytest.raises(ModelNotReady, match="not built"):
        load(other, "vae_decoder", tmp_path / "empty")


@pytest.mark.parametrize(
    "change", ["gpu", "driver", "version", "conversion", "buckets", "kernels", "triton", "ranks"]
)
def test_a_stale_key_finds_nothing(folder, machine, built, monkeypatch, change):
    cache, _ = built
    assert cache.read(key(folder, "unet"), PLAN_NAME)
    bank, gpu, plugins = open_bank(folder), GPU, tensor_rt.PLUGINS
    if change in ("gpu", "driver"):
        other = {"gpu": {"name": "Other GPU"}, "driver": {"driver_version": "13.1"}}
        gpu = replace(GPU, **other[change])
    if change == "version":
        machine.change("version=11.4.0.107")
    if change == "conversion":
        monkeypatch.setattr(tensor_rt, "CONVERSION_VERSION", "other")
    if change == "buckets":
        monkeypatch.setattr(tensor_rt, "BUCKETS", (1, 2))
    if change == "kernels":
        plugins = ("Geglu",)
    if change == "triton":
        monkeypatch.setattr("sangsang.kernels.compiling.catalogue.version", lambda _: "9.9")
    if change == "ranks":
        bank.arrays[next(iter(bank.arrays))] = np.zeros((3, 3), np.float32)
    with pytest.raises(NotBuilt):
        cache.read(build_key(folder, "unet", gpu, bank, plugins), PLAN_NAME)


def test_a_kernels_source_is_in_the_key(folder, machine, monkeypatch, tmp_path):
    before = key(folder, "unet")
    shutil.copytree(catalogue._KERNELS / "geglu", tmp_path / "geglu")
    shutil.copytree(catalogue._KERNELS / "compiling", tmp_path / "compiling")
    shutil.copytree(catalogue._KERNELS / "group_norm_silu", tmp_path / "group_norm_silu")
    monkeypatch.setattr(catalogue, "_KERNELS", tmp_path)
    assert key(folder, "unet") == before
    with (tmp_path / "geglu" / "kernel.py").open("a") as file:
        file.write("# Another kernel.\n")
    assert key(folder, "unet") != before


@pytest.mark.parametrize(
    ("settings", "said"), [("gpu=Other GPU", "cannot load"), ("version=11.9", "not built")]
)
def test_a_plan_of_another_machine_is_refused(folder, machine, built, settings, said):
    """The key says so for another version; the GPU's own word is TensorRT's."""
    cache, _ = built
    machine.change(settings)
    with pytest.raises(ModelNotReady, match=said):
        load(folder, "vae_decoder", cache)


def test_a_plan_of_another_network_is_refused(folder, machine, built):
    cache, _ = built
    decoder = cache.read(key(folder, "vae_decoder"), PLAN_NAME)
    with pytest.raises(ModelNotReady, match=r"another engine: its inputs differ by latents"):
        tensor_rt.open_engine(folder, "vae_encoder", decoder)
    unet = cache.read(key(folder, "unet"), PLAN_NAME)
    with pytest.raises(ModelNotReady, match=r"another engine: its inputs differ by adapter"):
        tensor_rt.open_engine(folder, "unet", unet)


def test_a_plan_of_other_profiles_is_refused(folder, machine, built, monkeypatch):
    cache, _ = built
    content = cache.read(key(folder, "vae_decoder"), PLAN_NAME)
    monkeypatch.setattr(tensor_rt, "BUCKETS", (1, 2))
    with pytest.raises(ModelNotReady, match="it has 8 profiles"):
        tensor_rt.open_engine(folder, "vae_decoder", content)


def test_without_the_library_it_says_what_to_install(folder, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(build_module, "build_engines", None)
    for attempt in (
        lambda: load(folder, "unet", tmp_path),
        lambda: build_model(folder, backend=BACKEND, cache_dir=tmp_path),
    ):
        with pytest.raises(ModelNotReady, match=r'pip install "sangsang\[tensorrt\]"'):
            attempt()


def test_without_its_libraries_it_says_so(folder, machine, monkeypatch, tmp_path):
    """As where only the bindings are installed, or those of another release."""

    def missing(name):
        raise ImportError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr(tensor_rt, "import_module", missing)
    with pytest.raises(ModelNotReady, match=r"libnvinfer\.so\.11.*install the extra again"):
        load(folder, "unet", tmp_path)


def test_a_tensorrt_before_11_is_refused(folder, machine, tmp_path):
    machine.change("version=10.16.1")
    with pytest.raises(ModelNotReady, match=r"needs TensorRT 11 or newer, and 10\.16\.1"):
        load(folder, "unet", tmp_path)


def test_without_triton_it_says_so(folder, machine, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("sangsang.kernels.compiling.catalogue.version", missing)
    with pytest.raises(ModelNotReady, match="needs triton for our kernels"):
        key(folder, "unet")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_before_it_exports(folder, machine, monkeypatch, tmp_path):
    monkeypatch.setattr(tensor_rt, "CudaDevice", CudaDevice)
    monkeypatch.setattr(build_module, "_build_module", None)
    for attempt in (
        lambda: load(folder, "unet", tmp_path),
        lambda: build_model(folder, backend=BACKEND, cache_dir=tmp_path),
    ):
        with pytest.raises(ModelNotReady, match=r"NVIDIA GPU.*take the backend onnxruntime"):
            attempt()
