"""Run: pytest tests/unit/test_validation.py"""

import pytest
from hostile_pictures import encoded, noise_picture, png
from hypothesis import given
from hypothesis import strategies as st

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.orchestrator.catalogue import Catalogue, ModelLimits, ServedModel, TierSettings
from sangsang.orchestrator.validation import make_plan
from sangsang.services.runtime.errors import (
    FieldViolation,
    InvalidRequest,
    MeshError,
    ModelNotFound,
)

LIMITS = ModelLimits(
    min_step_count=1,
    max_step_count=100,
    min_width_px=32,
    max_width_px=128,
    min_height_px=32,
    max_height_px=128,
    max_pixel_count=128 * 96,
    size_multiple_px=16,
    default_width_px=64,
    default_height_px=64,
    max_guidance_scale=20.0,
    max_image_count=8,
    max_token_count=24,
)


class FakeSamplers:
    names = ("ddim", "dpmpp_2m", "lcm")

    def violations(self, name, step_count):
        if name not in self.names:
            return [FieldViolation("scheduler", f"must be one of {', '.join(self.names)}")]
        if name == "lcm" and step_count > 50:
            return [FieldViolation("step_count", "must be 1 to 50 for scheduler lcm")]
        return []


PICTURE = encoded(noise_picture(), "PNG")
HUGE = png(30_000, 30_000, b"")

CATALOGUE = Catalogue(
    [
        ServedModel(
            model_id="pocket",
            description="",
            default_tier="pro",
            tiers={
                "free": TierSettings(12, 20, 3.0, "dpmpp_2m", "base"),
                "pro": TierSettings(35, 100, 5.0, "ddim", "base"),
            },
            samplers=FakeSamplers(),
            limits=LIMITS,
        )
    ]
)


def spec(**fields) -> imaging.ImageSpec:
    return imaging.ImageSpec(**{"model_id": "pocket", "prompt": "a cat", **fields})


def bad_fields(**fields) -> set[str]:
    with pytest.raises(InvalidRequest) as failed:
        make_plan(spec(**fields), CATALOGUE)
    return {violation.field for violation in failed.value.violations}


def test_defaults_come_from_the_tier():
    pro = make_plan(spec(), CATALOGUE)
    assert (pro.tier, pro.step_count, pro.guidance_scale, pro.scheduler) == ("pro", 35, 5.0, "ddim")
    free = make_plan(spec(tier=imaging.TIER_FREE), CATALOGUE)
    assert (free.tier, free.step_count, free.scheduler) == ("free", 12, "dpmpp_2m")


def test_images_use_consecutive_seeds():
    assert make_plan(spec(seed=7, image_count=3), CATALOGUE).seeds == (7, 8, 9)


def test_an_unset_seed_is_drawn():
    seeds = {make_plan(spec(), CATALOGUE).seeds for _ in range(4)}
    assert len(seeds) == 4


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": ""}, "spec.prompt"),
        ({"prompt": " \n"}, "spec.prompt"),
        ({"prompt": "x" * 1_000_000}, "spec.prompt"),
        ({"negative_prompt": "x" * 2001}, "spec.negative_prompt"),
        ({"guidance_scale": float("nan")}, "spec.guidance_scale"),
        ({"guidance_scale": float("inf")}, "spec.guidance_scale"),
        ({"guidance_scale": -1.0}, "spec.guidance_scale"),
        ({"guidance_scale": 20.5}, "spec.guidance_scale"),
        ({"step_count": 0}, "spec.step_count"),
        ({"step_count": 1_000_000}, "spec.step_count"),
        ({"step_count": 21, "tier": imaging.TIER_FREE}, "spec.step_count"),
        ({"step_count": 51, "scheduler": "lcm"}, "spec.step_count"),
        ({"width_px": 7}, "spec.width_px"),
        ({"width_px": 100_000}, "spec.width_px"),
        ({"height_px": 40}, "spec.height_px"),
        ({"width_px": 128, "height_px": 128}, "spec.width_px"),
        ({"seed": -1}, "spec.seed"),
        ({"seed": 2**63 - 1, "image_count": 2}, "spec.seed"),
        ({"image_count": 0}, "spec.image_count"),
        ({"image_count": 10_000}, "spec.image_count"),
        ({"scheduler": "nonsense"}, "spec.scheduler"),
        ({"scheduler": "pndm"}, "spec.scheduler"),
        ({"mime_type": "image/tiff"}, "spec.mime_type"),
        ({"quality": 0}, "spec.quality"),
        ({"quality": 101}, "spec.quality"),
        ({"tier": 9}, "spec.tier"),
        ({"model_id": ""}, "spec.model_id"),
        ({"initial_image": {"content": b""}}, "spec.initial_image.content"),
        ({"initial_image": {"content": b"x" * 9_000_000}}, "spec.initial_image.content"),
        ({"initial_image": {"content": b"text " * 800_000}}, "spec.initial_image.content"),
        ({"initial_image": {"content": PICTURE[:-20]}}, "spec.initial_image.content"),
        ({"initial_image": {"content": HUGE}}, "spec.initial_image.content"),
        ({"initial_image": {"content": PICTURE, "strength": 0.0}}, "spec.initial_image.strength"),
        ({"initial_image": {"content": PICTURE, "strength": 1.01}}, "spec.initial_image.strength"),
        (
            {"initial_image": {"content": PICTURE, "strength": float("nan")}},
            "spec.initial_image.strength",
        ),
        (
            {"initial_image": {"content": PICTURE, "strength": 0.1}, "step_count": 9},
            "spec.initial_image.strength",
        ),
    ],
)
def test_a_bad_field_is_named(fields, field):
    assert bad_fields(**fields) == {field}


def test_a_limit_is_told_to_its_last_digit():
    with pytest.raises(InvalidRequest, match="must be from 0 to 9223372036854775807, got -1"):
        make_plan(spec(seed=-1), CATALOGUE)


def test_all_bad_fields_are_named_at_once():
    found = bad_fields(
        prompt="",
        guidance_scale=float("nan"),
        step_count=0,
        width_px=7,
        height_px=100_000,
        seed=-1,
        scheduler="nonsense",
        mime_type="image/tiff",
        initial_image={"content": HUGE, "strength": 2.0},
    )
    assert found == {
        "spec.prompt",
        "spec.guidance_scale",
        "spec.step_count",
        "spec.width_px",
        "spec.height_px",
        "spec.seed",
        "spec.scheduler",
        "spec.mime_type",
        "spec.initial_image.content",
        "spec.initial_image.strength",
    }


def test_a_picture_may_be_as_large_as_the_settings_say():
    picture = spec(initial_image={"content": PICTURE})
    make_plan(picture, CATALOGUE, max_picture_pixels=40 * 24)
    with pytest.raises(InvalidRequest, match="at most 959 pixels, claims 40x24"):
        make_plan(picture, CATALOGUE, max_picture_pixels=40 * 24 - 1)


def test_an_unknown_model_is_not_found_and_the_known_ones_are_named():
    with pytest.raises(ModelNotFound, match="pocket"):
        make_plan(spec(model_id="nonsense"), CATALOGUE)


def test_the_limit_is_in_the_message():
    with pytest.raises(InvalidRequest, match="must be from 1 to 100, got 1000000"):
        make_plan(spec(step_count=1_000_000), CATALOGUE)


@pytest.mark.parametrize("request_id", ["x", "5f0c6a52", "not-a-uuid-at-all"])
def test_a_request_id_must_be_a_uuid(request_id):
    with pytest.raises(InvalidRequest) as failed:
        make_plan(spec(), CATALOGUE, request_id=request_id)
    assert [v.field for v in failed.value.violations] == ["request_id"]


def test_the_tenant_is_the_callers_or_anonymous():
    assert make_plan(spec(), CATALOGUE).tenant == "anonymous"
    assert make_plan(spec(), CATALOGUE, tenant="Shop-1.eu_a").tenant == "Shop-1.eu_a"
    assert make_plan(spec(), CATALOGUE, tenant="a" * 64).tenant == "a" * 64


@pytest.mark.parametrize("tenant", ["", "a b", "a/b", "a\n", "\u00e9", "a" * 65])
def test_a_tenant_must_be_a_short_plain_name(tenant):
    with pytest.raises(InvalidRequest) as failed:
        make_plan(spec(), CATALOGUE, tenant=tenant)
    assert [v.field for v in failed.value.violations] == ["sangsang-tenant"]


@given(st.binary(max_size=300))
def test_any_bytes_become_a_plan_or_an_error_of_ours(data):
    message = imaging.ImageSpec()
    try:
        message.ParseFromString(data)
    except Exception:
        return
    try:
        make_plan(message, CATALOGUE)
    except MeshError as error:
        assert error.message
