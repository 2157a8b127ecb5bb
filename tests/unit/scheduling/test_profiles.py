"""What profiles tell the scheduler. Run: pytest tests/unit/scheduling/test_profiles.py"""

from pathlib import Path

import pytest

from sangsang.orchestrator.profiles import read_profiles
from sangsang.services.runtime.models.folder import ModelFolder
from sangsang.services.runtime.models.profile import (
    ModelProfile,
    PairProfile,
    StepProfile,
    shape_digest,
)

POCKET = Path(__file__).parents[3] / "deploy" / "models" / "pocket"


@pytest.fixture
def folder(tmp_path):
    """pocket without what lies beside it."""
    target = tmp_path / "pocket"
    target.mkdir()
    for path in POCKET.iterdir():
        if path.name != "profile.json":
            (target / path.name).symlink_to(path)
    return target


def write_profile(path: Path) -> None:
    opened = ModelFolder.open(path)
    ModelProfile(
        backend="onnxruntime",
        shape_digest=shape_digest(opened),
        machine="a machine",
        versions={},
        date="2026-11-24",
        steps=(StepProfile(height_px=64, width_px=64, seconds={1: 0.01, 4: 0.02, 8: 0.04}),),
        stages={"text_encoding": 0.002, "diffusion": 0.01},
        pairs=(
            PairProfile(
                stage="diffusion", other="postprocessing", slowdown=3.0, other_slowdown=3.0
            ),
        ),
    ).write(opened)


def test_a_model_without_a_profile_is_unknown(folder):
    known = read_profiles([folder], row_limit=8, min_gain=0.1)
    assert (known.costs, known.row_limits, known.forbidden) == ({}, {}, frozenset())


def test_steps_calls_rows_and_pairs_come_from_the_profile(folder):
    write_profile(folder)
    known = read_profiles([folder], row_limit=8, min_gain=0.1)
    costs = known.costs["pocket"]
    assert costs.step_s == {1: 0.01, 4: 0.02, 8: 0.04}
    assert costs.light_s == {"text_encoding": 0.002}
    assert costs.pixels == 64 * 64
    # Four rows cost as much a row as eight.
    assert known.row_limits == {"pocket": 4}
    assert known.forbidden == {frozenset({"diffusion", "postprocessing"})}


def test_the_setting_bounds_what_a_profile_says(folder):
    write_profile(folder)
    assert read_profiles([folder], row_limit=2, min_gain=0.1).row_limits == {"pocket": 2}
