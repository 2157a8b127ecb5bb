"""Models and meshes that the mesh tests share. Exporting takes seconds, so it is done once."""

import json
from pathlib import Path

import pytest
from meshes import mesh_in_process
from random_models import make_random_model

from sangsang.services.runtime.building.build import build_model
from sangsang.services.runtime.models.folder import ModelFolder

POCKET = Path(__file__).parents[2] / "deploy" / "models" / "pocket"
# Compiling tables takes time in proportion; the tests ask for fewer than this.
MAX_STEP_COUNT = 24


def build(path: Path, cache_dir: Path) -> None:
    """Builds a folder with few steps, and says so in its manifest."""
    tier = {"step_count": 10, "guidance_scale": 5.0}
    limits = {"step_count": {"min": 1, "max": MAX_STEP_COUNT}}
    manifest = {"tiers": {"free": tier, "pro": tier}, "limits": limits}
    (path / "sangsang.json").write_text(json.dumps(manifest))
    build_model(ModelFolder.open(path), cache_dir=cache_dir, max_step_count=MAX_STEP_COUNT)


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
    build(path, cache_dir)
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, cache_dir) -> Path:
    """The smallest model, for tests of behaviour."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    make_random_model(path, seed=2, variant="tiny")
    build(path, cache_dir)
    return path


@pytest.fixture
async def mesh(tiny, cache_dir):
    """A mesh in this process that serves `tiny`."""
    async with mesh_in_process([tiny], cache_dir) as running:
        yield running
