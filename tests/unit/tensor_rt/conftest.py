"""Fixtures of the `tensorrt` backend on a scripted machine."""

import shutil

import pytest
from scripted_machine import POCKET, Machine, build_one, forget, key

from sangsang.services.runtime.engines.cache import EngineCache
from sangsang.services.runtime.models.folder import MODULE_NAMES, ModelFolder


@pytest.fixture(scope="session")
def folder():
    return ModelFolder.open(POCKET)


@pytest.fixture
def machine(monkeypatch):
    yield Machine(monkeypatch)
    forget()


@pytest.fixture(scope="session")
def built(folder, tmp_path_factory):
    """All of the shipped model, once: other tests must not change it."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        Machine(patch)
        reports = {module: build_one(folder, module, EngineCache(place)) for module in MODULE_NAMES}
        forget()
    return EngineCache(place), reports


@pytest.fixture
def own_cache(folder, machine, built, tmp_path):
    """The text encoder alone, for tests that harm it."""
    cache, _ = built
    theirs = EngineCache(tmp_path / "cache")
    source, target = (one.entry_path(key(folder, "text_encoder")) for one in (cache, theirs))
    shutil.copytree(source, target)
    return theirs
