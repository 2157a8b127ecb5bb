"""Kernels in the interpreter, with output memory that is NaN until it is written."""

from importlib.util import find_spec

import pytest
import torch

from sangsang.kernels.dispatch import choice, kernel_settings


@pytest.fixture
def interpreted(monkeypatch):
    """Every operation runs its kernel, in Triton's interpreter."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed: pip install 'sangsang[kernels-test]'")
    from triton import knobs

    assert knobs.runtime.interpret, "tests/unit/conftest.py was read after triton was imported"
    monkeypatch.setenv("SANGSANG_KERNELS", "triton")
    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, _poisoned(getattr(torch, name)))
    _forget()
    yield
    monkeypatch.undo()
    _forget()


def _forget():
    kernel_settings.cache_clear()
    choice._chosen.cache_clear()


def _poisoned(allocate):
    def allocated(*args, **kwargs):
        memory = allocate(*args, **kwargs)
        return memory.fill_(float("nan")) if memory.is_floating_point() else memory

    return allocated
