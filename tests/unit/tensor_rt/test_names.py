"""What our code calls on TensorRT and on torch's CUDA exists under that name in the real ones."""

import ast
import inspect
import platform
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tensorrt_names import names

from sangsang.services.runtime.engines import cuda_device

SUPPORT = Path(__file__).parents[2] / "support"

pytestmark = pytest.mark.skipif(
    find_spec("tensorrt_bindings") is None or platform.machine() != "x86_64",
    reason="the bindings of TensorRT are not installed: pip install 'sangsang[kernels-test]'",
)


@pytest.fixture(scope="module")
def real():
    return names()


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.syspath_prepend(SUPPORT / "scripted_tensorrt")
    import tensorrt

    yield tensorrt
    import sys

    for name in [one for one in sys.modules if one.split(".")[0] == "tensorrt"]:
        del sys.modules[name]


def differences(classes, real):
    """What of some scripted classes the real ones do not have."""
    for name, scripted in classes.items():
        attributes = real.get(name)
        if attributes is None:
            yield name
            continue
        for attribute, value in vars(scripted).items():
            private = attribute.startswith("_") and attribute != "__init__"
            if private or attribute in ("__slots__", "__module__", "__doc__"):
                continue
            if attribute not in attributes:
                yield f"{name}.{attribute}"
            elif inspect.isfunction(value):
                arguments = list(inspect.signature(value).parameters)[1:]
                offered = list(signatures(attributes[attribute]))
                # What only TensorRT itself makes has no signature to be made by.
                if arguments not in offered and (offered or attribute != "__init__"):
                    yield f"{name}.{attribute}({', '.join(arguments)})"


def signatures(text):
    """The arguments' names of every overload in a docstring of pybind11."""
    for arguments in re.findall(r"^(?:\d+\. )?\w+\((.*)\) -> ", text, re.MULTILINE):
        yield re.findall(r"(?:^|, )(\w+):", arguments)[1:]


def test_the_bindings_are_the_version_that_this_is_written_for(real):
    assert real[""]["__version__"].startswith("11.")
    assert len(real) > 100


def test_every_scripted_name_is_a_real_one(scripted, real):
    assert list(differences(scripted.SCRIPTED, real)) == []
    for name, members in scripted.ENUMS.items():
        assert not {member.name for member in members} - set(real[name])
    assert "WARNING" in real["Logger"]


def test_a_name_that_is_not_real_is_found(real):
    class Runtime:
        def deserialise_cuda_engine(self, serialized_engine):
            pass

        def load_runtime(self, file):
            pass

    found = list(differences({"Runtime": Runtime, "Runtimes": Runtime}, real))
    assert found == [
        "Runtime.deserialise_cuda_engine",
        "Runtime.load_runtime(file)",
        "Runtimes",
    ]


def test_scripted_objects_take_no_other_name(scripted):
    config = scripted.Builder(scripted.Logger()).create_builder_config()
    with pytest.raises(AttributeError):
        config.max_auxiliary_streams = 0


def test_what_is_used_of_torch_is_there():
    """On a build of torch without CUDA the names are there, and fail when they are called."""
    used = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(inspect.getsource(cuda_device)))
        if isinstance(node, ast.Attribute) and re.fullmatch(r"torch(\.\w+)+", ast.unparse(node))
    }
    assert {"torch.cuda.Stream", "torch.cuda.CUDAGraph", "torch.from_dlpack"} <= used
    for name in used:
        found = torch
        for part in name.split(".")[1:]:
            found = getattr(found, part)
    for method in ("capture_begin", "capture_end", "replay"):
        assert callable(getattr(torch.cuda.CUDAGraph, method))
    begin = inspect.signature(torch.cuda.CUDAGraph.capture_begin)
    assert "capture_error_mode" in begin.parameters
    for method in ("synchronize", "wait_stream"):
        assert callable(getattr(torch.cuda.Stream, method))
