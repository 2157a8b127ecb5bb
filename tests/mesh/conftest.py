"""Models and meshes that the mesh tests share. Exporting takes seconds, so it is done once."""

from pathlib import Path

import pytest
from meshes import mesh_in_process
from random_models import make_random_model

from sangsang.services.runtime.building.build import build_model
from sangsang.services.runtime.models.folder import ModelFolder

POCKET = Path(__file__).parents[2] / "deploy" / "models" / "pocket"
# Compiling tables takes time in proportion; the tests ask for fewer than this.
MAX_STEP_COUNT = 24


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def pocket() -> Path:
    """The shipped model, with the engines that lie beside it."""
    return POCKET


@pytest.fixture(scope="session")
def foreign(tmp_path_factory, cache_dir) -> Path:
    """A folder of Stable Diffusion 1.5's shape family that the mesh has never seen."""
    path = tmp_path_factory.mktemp("models") / "foreign"
    make_random_model(path, seed=1, variant="sd15_like")
    build_model(ModelFolder.open(path), cache_dir=cache_dir, max_step_count=MAX_STEP_COUNT)
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, cache_dir) -> Path:
    """The smallest model, for tests of behaviour."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    make_random_model(path, seed=2, variant="tiny")
    build_model(ModelFolder.open(path), cache_dir=cache_dir, max_step_count=MAX_STEP_COUNT)
    return path


@pytest.fixture
async def mesh(tiny, cache_dir):
    """A mesh in this process that serves `tiny`."""
    async with mesh_in_process([tiny], cache_dir) as running:
        yield running
