"""A model repository of Triton: what is in it, what it computes, and what is refused.

Triton itself runs what is exported in tests/contract/triton_server and tests/mesh. Its own backend
for ONNX Runtime is not in the wheel that the tests have, so here its files are opened by ONNX
Runtime, and its configuration is read by tritonclient's messages.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from typer.testing import CliRunner

from sangsang.orchestrator.cli import app
from sangsang.services.runtime.building.export import example_inputs
from sangsang.services.runtime.engines.cache import EngineCache
from sangsang.services.runtime.engines.loading import load_engine
from sangsang.services.runtime.engines.onnx_runtime import session_options
from sangsang.services.runtime.errors import ModelNotReady
from sangsang.services.runtime.model_repository.hosts import HOSTS, host
from sangsang.services.runtime.model_repository.repository import export_model, write_module
from sangsang.services.runtime.models.folder import MODULE_NAMES, ModelFolder
from sangsang.services.runtime.open_inference.datatypes import datatype_of

POCKET = Path(__file__).parents[2] / "deploy" / "models" / "pocket"
ORT_NAMES = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64"}
TYPES = model_config_pb2.DataType


@pytest.fixture(scope="module")
def folder():
    return ModelFolder.open(POCKET)


@pytest.fixture(scope="module", params=["onnxruntime", "python"])
def exported(request, folder, tmp_path_factory):
    """The backend, and the shipped model's repository for it."""
    repository = tmp_path_factory.mktemp("exported") / "models"
    export_model(folder, repository, backend=request.param, instance_count=2)
    return request.param, repository


def read_config(repository, module):
    text = (repository / f"pocket.{module}" / "config.pbtxt").read_text("utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def open_graph(repository, module):
    path = repository / f"pocket.{module}" / "1" / "model.onnx" / "model.onnx"
    return onnxruntime.InferenceSession(str(path), session_options(1))


def test_every_engine_of_a_stage_is_there(exported):
    backend, repository = exported
    assert sorted(path.name for path in repository.iterdir()) == sorted(
        f"pocket.{module}" for module in MODULE_NAMES
    )
    for module in MODULE_NAMES:
        version = repository / f"pocket.{module}" / "1"
        script = {"model.py"} if backend == "python" else set()
        assert {path.name for path in version.iterdir()} == {"model.onnx", *script}
    assert not [path for path in repository.parent.iterdir() if path != repository]


@pytest.mark.parametrize("module", MODULE_NAMES)
def test_the_configuration_says_all_that_triton_and_a_stage_ask_for(exported, folder, module):
    backend, repository = exported
    config, engine = read_config(repository, module), load_engine(folder, module)
    assert (config.name, config.backend) == (f"pocket.{module}", backend)
    assert config.platform == ("onnxruntime_onnx" if backend == "onnxruntime" else "")
    assert config.default_model_filename == ("model.py" if backend == "python" else "model.onnx")
    assert config.max_batch_size == 0
    assert list(config.version_policy.specific.versions) == [1]
    [group] = config.instance_group
    assert (group.count, group.kind) == (2, model_config_pb2.ModelInstanceGroup.KIND_CPU)
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert parameters == {
        "digest": folder.digest(module),
        "precision": "f32",
        "intra_op_thread_count": "1",
        "inter_op_thread_count": "1",
        "execution_mode": "0",
    }
    for tensors, specs in ((config.input, engine.inputs), (config.output, engine.outputs)):
        assert [(t.name, TYPES.Name(t.data_type), list(t.dims)) for t in tensors] == [
            (s.name, datatype_of(s.dtype).config_name, [-1 if n is None else n for n in s.shape])
            for s in specs
        ]
    # Triton's own backend for ONNX Runtime does not know what to put where nothing was given.
    optional = {tensor.name for tensor in config.input if tensor.optional}
    assert optional == ({"adapter_scale"} if (backend, module) == ("python", "unet") else set())


@pytest.mark.parametrize("module", MODULE_NAMES)
def test_the_graph_takes_and_gives_what_the_configuration_says(exported, module):
    _, repository = exported
    config, session = read_config(repository, module), open_graph(repository, module)
    for tensors, values in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        assert [t.name for t in tensors] == [v.name for v in values]
        for tensor, value in zip(tensors, values, strict=True):
            assert TYPES.Name(tensor.data_type) == ORT_NAMES[value.type]
            assert len(tensor.dims) == len(value.shape)
            for stated, found in zip(tensor.dims, value.shape, strict=True):
                # A size that the graph leaves open may be stated: callers keep to it.
                assert stated == found or isinstance(found, str)


@pytest.mark.parametrize("module", MODULE_NAMES)
def test_the_graph_alone_computes_the_bits_of_the_engine(exported, folder, module):
    _, repository = exported
    session, engine = open_graph(repository, module), load_engine(folder, module)
    for batch, sides in ((1, (4, 4)), (3, (8, 8)), (8, (4, 8))):
        inputs = example_inputs(folder, module, batch, sides)
        for scales in (None, np.zeros(batch), np.arange(batch) % 2, np.ones(batch)):
            if module == "unet":
                given = np.zeros(batch) if scales is None else scales
                inputs["adapter_scale"] = given.astype(np.float32)[:, None]
            name = engine.outputs[0].name
            [found] = session.run([name], inputs)
            assert found.std() > 0
            np.testing.assert_array_equal(found, engine.infer(inputs)[name])


def test_nothing_is_written_over_without_force(folder, tmp_path):
    (tmp_path / "pocket.unet").mkdir()
    (tmp_path / "pocket.unet" / "old").touch()
    (tmp_path / "theirs" / "1").mkdir(parents=True)
    with pytest.raises(ModelNotReady, match=r"is not empty.* --force"):
        export_model(folder, tmp_path)
    assert (tmp_path / "pocket.unet" / "old").exists()
    export_model(folder, tmp_path, force=True)
    export_model(folder, tmp_path, force=True)
    assert not (tmp_path / "pocket.unet" / "old").exists()
    assert {path.name for path in tmp_path.iterdir()} == {
        "theirs",
        *(f"pocket.{module}" for module in MODULE_NAMES),
    }


def test_a_file_is_no_repository(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ModelNotReady, match="is not a folder"):
        export_model(folder, tmp_path / "file", force=True)


def test_a_model_that_is_not_built_says_how_to_build_it(tmp_path):
    model = tmp_path / "bare"
    shutil.copytree(POCKET, model, ignore=shutil.ignore_patterns("engines"))
    repository = tmp_path / "models"
    with pytest.raises(ModelNotReady, match=r"is not built .*run `sangsang build .*bare"):
        export_model(ModelFolder.open(model), repository, cache=tmp_path / "cache")
    assert not repository.exists()


@pytest.mark.parametrize("backend", ["tensorrt_rtx", "openvino", "", "ensemble"])
def test_a_backend_that_triton_has_not_is_named(folder, tmp_path, backend):
    with pytest.raises(ModelNotReady, match=f"'{backend}'.*onnxruntime, python, tensorrt"):
        export_model(folder, tmp_path / "models", backend=backend)
    assert HOSTS == ("onnxruntime", "python", "tensorrt")


def test_a_missing_package_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(
        sys.modules, "sangsang.services.runtime.model_repository.whole_graph", raising=False
    )
    with pytest.raises(ModelNotReady, match=r'needs onnx, .* pip install "sangsang\[build\]"'):
        export_model(folder, tmp_path / "models")


def test_what_fails_half_way_leaves_what_was_there(folder, tmp_path):
    repository = tmp_path / "models"
    repository.mkdir()
    hosted = host(folder, "vae_encoder", backend="onnxruntime", cache=EngineCache(tmp_path))
    write_module(hosted, repository)
    before = read_config(repository, "vae_encoder")

    def fail(version: Path) -> None:
        (version / "half").touch()
        raise OSError("no space left on the device")

    with pytest.raises(OSError, match="no space"):
        write_module(replace(hosted, write=fail, max_batch_size=7), repository)
    assert read_config(repository, "vae_encoder") == before
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_the_command_says_what_to_do_next(tmp_path):
    repository = tmp_path / "my models"
    arguments = ["export-triton", str(POCKET), str(repository), "--backend", "python"]
    result = CliRunner().invoke(app, [*arguments, "--instances", "3"])
    assert result.exit_code == 0, result.output
    assert "pocket.text_encoder" in result.stdout
    assert f"-v '{repository}':/models" in result.stdout
    assert "pip install onnxruntime" in result.stdout
    assert "SANGSANG_TRITON_SERVER_ADDRESS=127.0.0.1:8001" in result.stdout
    assert read_config(repository, "unet").instance_group[0].count == 3
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, ModelNotReady)
