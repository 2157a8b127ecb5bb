"""The manifest: what is derived, what is read, what is refused."""

import json

import pytest
from random_models import make_random_model

from sangsang.services.runtime.errors import ModelNotReady
from sangsang.services.runtime.models.folder import ModelFolder
from sangsang.services.runtime.models.manifest import Manifest


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_random_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def read(tiny):
    file = tiny / "sangsang.json"

    def read(fields):
        file.write_text(fields if isinstance(fields, str) else json.dumps(fields))
        return Manifest.read(ModelFolder.open(tiny))

    yield read
    file.unlink(missing_ok=True)


def test_any_folder_can_be_served(tiny):
    manifest = Manifest.read(ModelFolder.open(tiny))
    assert manifest.model_id == "tiny"
    assert manifest.default_scheduler is None
    assert set(manifest.tiers) == {"free", "pro"}
    assert manifest.tiers["free"].weights == "base"
    limits = manifest.limits
    assert (limits.width_px.min, limits.width_px.max) == (4, 32)
    assert limits.max_pixel_count == 32 * 32


def test_what_the_file_says_counts(read):
    manifest = read(
        {
            "model_id": "pocket",
            "description": "Emoji.",
            "default_tier": "pro",
            "default_scheduler": "ddim",
            "tiers": {
                "free": {"step_count": 3, "guidance_scale": 1.0, "weights": "student"},
                "pro": {"step_count": 35, "guidance_scale": 4, "max_step_count": 50},
            },
            "weights": {"student": {"unet": "unet"}},
            "limits": {"width_px": {"min": 8, "max": 64}, "max_image_count": 2},
        }
    )
    assert (manifest.model_id, manifest.default_tier) == ("pocket", "pro")
    assert manifest.tiers["free"].weights == "student"
    assert manifest.weight_names == ("base", "student")
    assert (manifest.unets, manifest.adapters) == ({"student": "unet"}, {})
    assert manifest.tiers["pro"].max_step_count == 50
    assert (manifest.limits.width_px.max, manifest.limits.height_px.max) == (64, 32)
    assert manifest.limits.max_image_count == 2
    assert manifest.limits.max_pixel_count == 64 * 32


def test_one_tier_is_enough(read):
    manifest = read({"tiers": {"pro": {"step_count": 5, "guidance_scale": 2}}})
    assert manifest.default_tier == "pro"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ({"tires": {}}, "tires"),
        ({"model_id": "../x"}, "model_id"),
        ({"tiers": {"gold": {"step_count": 1, "guidance_scale": 1}}}, "tiers.gold"),
        ({"tiers": {"free": {"step_count": 0, "guidance_scale": 1}}}, "tiers.free.step_count"),
        ({"tiers": {"free": {"step_count": 3}}}, "tiers.free.guidance_scale"),
        (
            {"tiers": {"free": {"step_count": 9, "guidance_scale": 1, "max_step_count": 3}}},
            "exceeds max_step_count",
        ),
        ({"tiers": {"free": {"step_count": 101, "guidance_scale": 1}}}, "limits.step_count"),
        ({"limits": {"width_px": {"min": 9, "max": 8}}}, "limits.width_px"),
        (
            {"tiers": {"free": {"step_count": 3, "guidance_scale": 1, "weights": "student"}}},
            "tiers.free.weights: 'student' is not among base",
        ),
        ({"weights": {"base": {"unet": "unet"}}}, "weights.base"),
        ({"weights": {"student": {}}}, "weights.student: "),
        ({"weights": {"student": {"unet": "a", "adapter": "b"}}}, "weights.student: "),
        ({"weights": {"student": {"adapter": "../b"}}}, "weights.student: "),
        ({"weights": {"student": {"adapter": "/etc"}}}, "weights.student: "),
        ({"weights": {"student": {"unet": "a/b"}}}, "weights.student: "),
        (
            {"weights": {"student": {"adapter": "adapters/x"}}},
            "weights.student.adapter: adapters/x",
        ),
        ({"weights": {"student": {"unet": "other"}}}, "weights.student.unet: other"),
        (
            {"default_tier": "pro", "tiers": {"free": {"step_count": 3, "guidance_scale": 1}}},
            "default_tier",
        ),
    ],
)
def test_a_bad_field_is_named(read, fields, named):
    with pytest.raises(ModelNotReady) as caught:
        read(fields)
    assert named in caught.value.message
    assert "sangsang.json" in caught.value.message
