"""What goes wrong around a build: a clear error that says what to do, never a wrong engine.

Of each kind what no backend's own tests have: `test_building.py`, `test_openvino.py`,
`test_tensor_rt_rtx.py` and `tests/contract/triton_server` have the others.
"""

import json
import shutil
import signal
import subprocess
import sys
import tomllib
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest

from sangsang.services.runtime.building.export import example_inputs
from sangsang.services.runtime.engines import loading, onnx_runtime, openvino_cpu
from sangsang.services.runtime.engines.cache import ENTRY_NAME, EngineCache, NotBuilt
from sangsang.services.runtime.engines.loading import BACKENDS, load_engine
from sangsang.services.runtime.engines.weightless import GRAPH_NAME
from sangsang.services.runtime.errors import ModelNotReady
from sangsang.services.runtime.models.folder import ModelFolder

POCKET = Path(__file__).parents[2] / "deploy" / "models" / "pocket"
ON_GRAPHS = ("onnxruntime", "openvino")


@pytest.fixture
def pocket(tmp_path):
    """The shipped model, whose graphs lie beside it; weights are links."""
    path = tmp_path / "pocket"
    shutil.copytree(POCKET, path, copy_function=lambda a, b: Path(b).symlink_to(a))
    return path


def load(path, backend, cache):
    return load_engine(ModelFolder.open(path), "text_encoder", backend=backend, cache=cache)


def states(engine, path):
    inputs = example_inputs(ModelFolder.open(path), "text_encoder", 2, (1, 1))
    return engine.infer(inputs)["last_hidden_state"]


# Before anything else is imported: the package that the first argument names is not there.
WITHOUT = """\
import sys
from pathlib import Path

_, package, model, backend, cache = sys.argv


class Missing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)


sys.meta_path.insert(0, Missing())
from sangsang.services.runtime.building.build import build_model
from sangsang.services.runtime.engines.loading import load_engine
from sangsang.services.runtime.engines.remote_server import RemoteServer
from sangsang.services.runtime.errors import ModelNotReady
from sangsang.services.runtime.models.folder import ModelFolder

folder, cache = ModelFolder.open(Path(model)), Path(cache)
"""


def python(code, *arguments):
    """A process of its own, in which nothing is imported yet."""
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("backend", "package", "extra"),
    [
        ("onnxruntime", "onnxruntime", "cpu"),
        ("openvino", "openvino", "openvino"),
        ("tensorrt_rtx", "torch", "gpu,tensorrt-rtx"),
        ("torch", "torch", "gpu"),
        ("torch", "diffusers", "gpu"),
        ("triton_server", "tritonclient", "triton-server"),
    ],
)
def test_a_missing_library_is_named_with_what_installs_it(backend, package, extra, tmp_path):
    if backend == "tensorrt_rtx":
        pytest.importorskip("tensorrt_rtx")
    code = (
        f"{WITHOUT}try:\n"
        "    load_engine(folder, 'unet', backend=backend, cache=cache,\n"
        "                remote=RemoteServer('127.0.0.1:1'))\n"
        "except ModelNotReady as exc:\n    print(exc.message)\n"
    )
    done = python(code, package, POCKET, backend, tmp_path)
    assert done.stdout.strip() == (
        f"backend {backend} needs {package}, which is not installed; "
        f'install the extra: pip install "sangsang[{extra}]", or take another backend'
    ), done.stderr


def test_a_library_that_is_there_and_does_not_load_is_told_apart():
    broken = ImportError("libnvonnxparser.so.11: cannot open shared object file")
    said = loading._not_installed("openvino", broken).message
    assert said.startswith("backend openvino needs what cannot load: libnvonnxparser.so.11: cannot")


def test_extras_are_those_of_the_package():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    known = set(project["project"]["optional-dependencies"])
    assert set(loading._EXTRAS) <= set(BACKENDS)
    assert {name for extra in loading._EXTRAS.values() for name in extra.split(",")} <= known


@pytest.mark.parametrize(
    ("backend", "package", "extras"),
    [("onnxruntime", "torch", "build"), ("openvino", "openvino", "build,openvino")],
)
def test_building_without_a_library_says_what_to_install(
    backend, package, extras, pocket, tmp_path
):
    if package == "torch":
        shutil.rmtree(pocket / "engines")
    code = (
        f"{WITHOUT}try:\n"
        "    build_model(folder, backend=backend, cache_dir=cache)\n"
        "except ModelNotReady as exc:\n    print(exc.message)\n"
    )
    done = python(code, package, pocket, backend, tmp_path / "cache")
    assert f" needs {package}, which is not installed; " in done.stdout, done.stderr
    assert f'pip install "sangsang[{extras}]"' in done.stdout


def rewrite_graph(path, change):
    """Changes the text encoder's graph beside a model into another sound build of the same key."""
    build = path / "engines" / "onnxruntime" / "text_encoder"
    model = onnx.load(build / GRAPH_NAME, load_external_data=False)
    change(model)
    entry = json.loads((build / ENTRY_NAME).read_text("utf-8"))
    entry["files"][GRAPH_NAME] = sha256(model.SerializeToString()).hexdigest()
    for name, content in (
        (GRAPH_NAME, model.SerializeToString()),
        (ENTRY_NAME, json.dumps(entry).encode()),
    ):
        (build / name).unlink()
        (build / name).write_bytes(content)


def use_strange_operator(model):
    model.graph.node[-1].op_type = "Strange"


@pytest.mark.parametrize("backend", ON_GRAPHS)
def test_an_operator_that_a_backend_lacks_is_named(pocket, tmp_path, backend):
    rewrite_graph(pocket, use_strange_operator)
    with pytest.raises(ModelNotReady, match=r"(?s)Strange.*run `sangsang build` again"):
        load(pocket, backend, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob(ENTRY_NAME))


def test_a_block_that_diffusers_lacks_is_named(pocket, tmp_path):
    config = pocket / "unet" / "config.json"
    fields = json.loads(config.read_text("utf-8"))
    config.unlink()
    config.write_text(json.dumps({**fields, "mid_block_type": "StrangeBlock"}))
    with pytest.raises(ModelNotReady, match=r"unet cannot be loaded: .*StrangeBlock"):
        load_engine(ModelFolder.open(pocket), "unet", backend="torch", cache=tmp_path)


@pytest.mark.parametrize("backend", ON_GRAPHS)
def test_a_graph_of_another_version_is_not_loaded(pocket, tmp_path, monkeypatch, backend):
    load(pocket, backend, tmp_path / "cache")
    monkeypatch.setattr(onnx_runtime, "GRAPH_VERSION", "opset99-1")
    with pytest.raises(ModelNotReady, match=r"by another version.*run `sangsang build"):
        load(pocket, backend, tmp_path / "cache")


def test_what_another_openvino_compiled_is_not_loaded(pocket, tmp_path, monkeypatch):
    expected = states(load(pocket, "openvino", tmp_path), pocket)
    assert len(list(tmp_path.glob("openvino/text_encoder-*"))) == 1
    monkeypatch.setattr(openvino_cpu.ov, "get_version", lambda: "2031.1")
    np.testing.assert_array_equal(states(load(pocket, "openvino", tmp_path), pocket), expected)
    assert len(list(tmp_path.glob("openvino/text_encoder-*"))) == 2


KILLED = (
    "import os, signal, sys; from pathlib import Path\n"
    "from sangsang.services.runtime.engines import openvino_cpu\n"
    "from sangsang.services.runtime.engines.loading import load_engine\n"
    "from sangsang.services.runtime.models.folder import ModelFolder\n"
    "def die(folder, module, graph, target, *rest):\n"
    "    (target / 'model.blob').write_bytes(b'half of it')\n"
    "    os.kill(os.getpid(), signal.SIGKILL)\n"
    "openvino_cpu._compile = die\n"
    "load_engine(ModelFolder.open(Path(sys.argv[1])), 'text_encoder', backend='openvino',\n"
    "            cache=Path(sys.argv[2]))\n"
)


def test_a_compilation_that_was_killed_is_made_again(pocket, tmp_path):
    cache = tmp_path / "cache"
    assert python(KILLED, pocket, cache).returncode == -signal.SIGKILL
    assert [path.name for path in cache.rglob("model.blob")] == ["model.blob"]
    assert not list(cache.rglob(ENTRY_NAME))
    expected = states(load(pocket, "onnxruntime", cache), pocket)
    np.testing.assert_allclose(states(load(pocket, "openvino", cache), pocket), expected, atol=1e-4)
    [blob] = cache.rglob("model.blob")
    assert (blob.parent / ENTRY_NAME).is_file()


EXPORT_KILLED = (
    "import os, signal, sys; from pathlib import Path\n"
    "from sangsang.services.runtime.building import build\n"
    "from sangsang.services.runtime.models.folder import ModelFolder\n"
    "def die(folder, module, target, tell):\n"
    "    (target / 'graph.onnx').write_bytes(b'half of it')\n"
    "    os.kill(os.getpid(), signal.SIGKILL)\n"
    "build._export_and_check = die\n"
    "build.build_model(ModelFolder.open(Path(sys.argv[1])), cache_dir=Path(sys.argv[2]))\n"
)


def test_an_export_that_was_killed_is_not_loaded(pocket, tmp_path):
    shipped = shutil.move(pocket / "engines", tmp_path / "shipped")
    cache = EngineCache(tmp_path / "cache")
    assert python(EXPORT_KILLED, pocket, cache.root).returncode == -signal.SIGKILL
    assert list(cache.root.rglob(GRAPH_NAME))
    with pytest.raises(ModelNotReady, match="run `sangsang build"):
        load(pocket, "onnxruntime", cache.root)
    key = onnx_runtime.build_key(ModelFolder.open(pocket), "text_encoder")
    with pytest.raises(NotBuilt):
        cache.find(key)
    with cache.writing(key) as target:
        for file in (Path(shipped) / "onnxruntime" / "text_encoder").iterdir():
            if file.name != ENTRY_NAME:
                shutil.copyfile(file, target / file.name)
    assert [path.parent for path in cache.root.rglob(GRAPH_NAME)] == [cache.entry_path(key)]
    assert states(load(pocket, "onnxruntime", cache.root), pocket).std() > 0
