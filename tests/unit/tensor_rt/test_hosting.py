"""Engines of TensorRT in a model repository of Triton, as far as a scripted one can show."""

from importlib.util import find_spec

import pytest
from google.protobuf import text_format
from scripted_machine import key, load
from tritonclient.grpc import model_config_pb2

from sangsang.services.runtime.engines.tensor_rt import BUCKETS, PLAN_NAME
from sangsang.services.runtime.errors import ModelNotReady
from sangsang.services.runtime.model_repository.hosts import host
from sangsang.services.runtime.model_repository.repository import write_module

pytestmark = pytest.mark.skipif(
    find_spec("tensorrt_bindings") is None or find_spec("triton") is None,
    reason="TensorRT's plugin layer or triton is missing: pip install 'sangsang[kernels-test]'",
)


@pytest.mark.parametrize("module", ["text_encoder", "vae_encoder", "vae_decoder"])
def test_the_engine_that_was_built_is_hosted(folder, machine, built, tmp_path, module):
    cache, _ = built
    write_module(host(folder, module, backend="tensorrt", cache=cache), tmp_path)
    place = tmp_path / f"pocket.{module}"
    plan = (place / "1" / "model.plan").read_bytes()
    assert plan == (cache.entry_path(key(folder, module)) / PLAN_NAME).read_bytes()
    text = (place / "config.pbtxt").read_text("utf-8")
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
    assert (config.default_model_filename, config.max_batch_size) == ("model.plan", 0)
    engine = load(folder, module, cache)
    [group] = config.instance_group
    assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    count = engine._plan.engine.num_optimization_profiles
    assert list(group.profile) == [str(number) for number in range(count)]
    assert count >= len(BUCKETS)
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    assert parameters == {
        "digest": folder.digest(module),
        "precision": "f16",
        "row_counts": "1,2,4,8",
    }
    engine.close()


def test_a_unet_with_adapters_says_what_to_do_instead(folder, machine, built):
    cache, _ = built
    with pytest.raises(ModelNotReady, match=r"has adapters.*--backend onnxruntime or python"):
        host(folder, "unet", backend="tensorrt", cache=cache)


def test_an_engine_that_was_not_built_is_not_hosted(folder, machine, own_cache):
    with pytest.raises(ModelNotReady, match=r"run `sangsang build .* --backend tensorrt`"):
        host(folder, "vae_decoder", backend="tensorrt", cache=own_cache)
