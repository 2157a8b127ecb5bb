"""Models and meshes that the mesh tests share. Exporting takes seconds, so it is done once."""

import json
import shutil
from pathlib import Path

import pytest
from meshes import mesh_in_process, slow_down, speed_up
from random_adapters import ATTENTION, make_random_adapter
from random_models import make_random_model

from sangsang.services.runtime.building.build import build_model
from sangsang.services.runtime.models.folder import ModelFolder

POCKET = Path(__file__).parents[2] / "deploy" / "models" / "pocket"
# Compiling tables takes time in proportion; the tests ask for fewer than this.
MAX_STEP_COUNT = 24


def build(path: Path, cache_dir: Path, steps: int = MAX_STEP_COUNT, **manifest: object) -> None:
    """Builds a folder with few steps, and says so in its manifest."""
    tier = {"step_count": 10, "guidance_scale": 5.0}
    fields = {
        "tiers": {"free": tier, "pro": tier},
        "limits": {"step_count": {"min": 1, "max": steps}},
        **manifest,
    }
    (path / "sangsang.json").write_text(json.dumps(fields))
    build_model(ModelFolder.open(path), cache_dir=cache_dir, max_step_count=steps)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def pocket() -> Path:
    """The shipped model, with the engines that lie beside it."""
    return POCKET


@pytest.fixture(scope="session")
def foreign(tmp_path_factory, cache_dir) -> Path:
    """A folder of Stable Diffusion 1.5's shape family that the mesh has never seen.

    Its free tier has an adapter; the other requests' rows go through the bank with scales of 0.
    """
    path = tmp_path_factory.mktemp("models") / "foreign"
    make_random_model(path, seed=1, variant="sd15_like")
    ranks = {"rank_pattern": {"conv1": 2, "conv_in": 3, "to_q": 8}, "lora_alpha": 6}
    make_random_adapter(path, path / "adapters" / "student", seed=3, **ranks)
    free = {"step_count": 3, "guidance_scale": 1.0, "weights": "student"}
    pro = {"step_count": 10, "guidance_scale": 5.0}
    build(
        path,
        cache_dir,
        default_tier="pro",
        tiers={"free": free, "pro": pro},
        weights={"student": {"adapter": "adapters/student"}},
    )
    return path


@pytest.fixture(scope="session")
def family(tmp_path_factory, cache_dir) -> Path:
    """The smallest model with a student, a style of other layers and ranks, and a second UNet."""
    path = tmp_path_factory.mktemp("models") / "family"
    # Tables follow from the scheduler alone: another one, or `tiny` would leave too few steps.
    make_random_model(path, seed=2, variant="tiny", scheduler={"beta_end": 0.0125})
    other = make_random_model(tmp_path_factory.mktemp("models") / "other", seed=9)
    shutil.copytree(other / "unet", path / "second_unet")
    make_random_adapter(path, path / "adapters" / "student", seed=4, r=4, lora_alpha=7)
    style = {"targets": ATTENTION, "r": 3, "lora_alpha": 5, "old_names": True}
    make_random_adapter(path, path / "adapters" / "style", seed=5, **style)
    free = {"step_count": 3, "guidance_scale": 1.0, "weights": "student"}
    pro = {"step_count": 35, "guidance_scale": 5.0}
    build(
        path,
        cache_dir,
        steps=35,
        default_tier="pro",
        tiers={"free": free, "pro": pro},
        weights={
            "student": {"adapter": "adapters/student"},
            "style": {"adapter": "adapters/style"},
            "second": {"unet": "second_unet"},
        },
    )
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


@pytest.fixture
def slowed(mesh):
    """The same mesh with steps long enough that a call can leave in the middle of its run."""
    slow_down(mesh, 0.02)
    yield mesh
    speed_up(mesh)
