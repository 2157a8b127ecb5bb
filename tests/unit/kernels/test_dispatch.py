"""Who computes an operation: what the setting says, where the tensors are, what is installed."""

import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from structlog.testing import capture_logs

from sangsang.kernels.dispatch import choice, dense, kernel_settings, runs_triton
from sangsang.kernels.geglu import geglu
from sangsang.kernels.geglu.reference import geglu_reference

ROOT = Path(__file__).parents[3]
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
KERNELS = [name for name in PACKAGES["packages"] if name.startswith("sangsang.kernels.")]


@pytest.fixture
def says(monkeypatch):
    """Sets the variable, and forgets what was read and logged before and after."""

    def set_to(value):
        monkeypatch.setenv("SANGSANG_KERNELS", value)
        kernel_settings.cache_clear()
        choice._chosen.cache_clear()

    yield set_to
    monkeypatch.undo()
    kernel_settings.cache_clear()
    choice._chosen.cache_clear()


def test_importing_kernels_imports_neither_triton_nor_tensorrt():
    modules = [
        f"sangsang.{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}"
        for path in sorted((ROOT / "kernels").rglob("*.py"))
        if path.name in ("op.py", "reference.py")
    ]
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "import torch\n"
        "from sangsang.kernels.geglu import geglu\n"
        "geglu(torch.ones(2, 4))\n"
        "print(sorted({'triton', 'tensorrt'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, *KERNELS, *modules]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/")
    assert done.stdout.splitlines()[-1] == "[]"


def test_on_a_cpu_auto_is_the_reference_and_says_so_once(says):
    says("auto")
    x = torch.ones(2, 4)
    with capture_logs() as logs:
        assert torch.equal(geglu(x), geglu_reference(x))
        geglu(x)
    expected = {"event": "kernel_chosen", "operation": "geglu", "implementation": "reference"}
    assert [{key: log[key] for key in expected} for log in logs] == [expected]
    assert logs[0]["reason"] == "the tensors are on cpu"


def test_the_setting_takes_the_reference_anywhere(says):
    says("reference")
    with capture_logs() as logs:
        assert not runs_triton("geglu", torch.ones(2))
    assert logs[0]["reason"] == "the setting says so"


def test_triton_where_it_cannot_run_is_an_error(says, monkeypatch):
    says("triton")
    weight = torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="silu cannot run: the kernel has no backward pass"):
        runs_triton("silu", weight)
    with pytest.raises(RuntimeError, match=r"it has no kernel for torch\.float64"):
        runs_triton("silu", torch.ones(2, dtype=torch.float64))
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="triton is not installed"):
        runs_triton("silu", torch.ones(2))


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_triton_without_a_gpu_or_its_interpreter_is_an_error(says, monkeypatch):
    says("triton")
    monkeypatch.setattr(choice, "_interprets", lambda: False)
    with pytest.raises(RuntimeError, match="silu cannot run: the tensors are on cpu"):
        runs_triton("silu", torch.ones(2))


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_without_a_gradient_to_keep_a_parameter_is_no_obstacle(says):
    says("triton")
    with torch.no_grad():
        assert runs_triton("silu", torch.ones(2, requires_grad=True))


def test_a_value_that_is_no_choice_is_named(says):
    says("fast")
    with pytest.raises(ValidationError, match="'auto', 'reference' or 'triton'"):
        runs_triton("silu", torch.ones(2))


@pytest.mark.parametrize(
    ("x", "kept"),
    [
        (torch.ones(2, 3, 4, 5), True),
        (torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last), True),
        (torch.ones(2, 3).t(), True),
        (torch.ones(4, 6)[:, ::2], False),
        (torch.ones(1, 3).expand(4, 3), False),
        (torch.tensor(1.0), True),
    ],
)
def test_memory_without_gaps_is_not_copied(x, kept):
    assert (dense(x).data_ptr() == x.data_ptr()) == kept
    y = torch.empty_like(dense(x))
    assert y.stride() == dense(x).stride() or x.ndim == 0
