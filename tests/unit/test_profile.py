"""`profile.json`: what is read from it, and that what does not fit is as good as none."""

import json
import shutil

import pytest
from pydantic import ValidationError
from random_adapters import make_random_adapter
from random_models import make_random_model
from structlog.testing import capture_logs

from sangsang.services.runtime.models.folder import ModelFolder
from sangsang.services.runtime.models.profile import (
    PROFILE_NAME,
    ModelProfile,
    PairProfile,
    StepProfile,
    shape_digest,
)
from sangsang.services.runtime.row_scheduling import ProfiledCosts

# 4 ms and 7 ms a row, up to eight rows: a row of four is 6 % dearer than a row of eight.
LINEAR = {count: 0.004 + 0.007 * count for count in (1, 2, 3, 4, 6, 8)}


def profile(digest="", **changes):
    fields = {
        "backend": "onnxruntime",
        "shape_digest": digest,
        "machine": "a machine",
        "versions": {"numpy": "2"},
        "date": "2026-11-24T04:00:00+00:00",
        "steps": [{"height_px": 64, "width_px": 64, "seconds": LINEAR}],
        "stages": {"text_encoding": 0.002, "postprocessing": 0.015},
        "pairs": [
            {
                "stage": "diffusion",
                "other": "postprocessing",
                "slowdown": 1.2,
                "other_slowdown": 2.0,
            },
            {
                "stage": "diffusion",
                "other": "text_encoding",
                "slowdown": 2.5,
                "other_slowdown": 4.0,
            },
        ],
    }
    return ModelProfile.model_validate({**fields, **changes})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_random_model(tmp_path_factory.mktemp("models") / "tiny", seed=1)


@pytest.fixture
def folder(path, tmp_path):
    return ModelFolder.open(shutil.copytree(path, tmp_path / "tiny"))


def ignored(folder, **options):
    """Why the profile beside a folder is as good as none."""
    with capture_logs() as logs:
        assert ModelProfile.read(folder, **options) is None
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("profile_ignored", "warning")
    return line["reason"]


def test_what_was_written_is_read(folder):
    written = profile(shape_digest(folder))
    assert written.write(folder) == folder.path / PROFILE_NAME
    assert ModelProfile.read(folder) == written
    assert ModelProfile.read(folder, backend="onnxruntime") == written
    assert [file.name for file in folder.path.glob("*profile*")] == [PROFILE_NAME]
    assert written.write(folder).stat().st_mode & 0o444 == 0o444


def test_a_missing_profile_is_nothing_to_speak_of(folder):
    with capture_logs() as logs:
        assert ModelProfile.read(folder) is None
    assert not logs


def test_a_profile_of_another_backend_or_model_is_ignored(folder):
    profile(shape_digest(folder)).write(folder)
    assert "not openvino" in ignored(folder, backend="openvino")
    profile("0" * 64).write(folder)
    assert "another model" in ignored(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2}', "\x00"])
def test_a_damaged_profile_is_ignored(folder, text):
    (folder.path / PROFILE_NAME).write_text(text)
    assert ignored(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": []},
        {"steps": [{"height_px": 64, "width_px": 64, "seconds": {}}]},
        {"steps": [{"height_px": 64, "width_px": 64, "seconds": {"0": 1.0}}]},
        {"steps": [{"height_px": 64, "width_px": 64, "seconds": {"1": 0.0}}]},
        {"steps": [{"height_px": 64, "width_px": 64, "seconds": {"1": 1.0}}] * 2},
        {"stages": {"dreaming": 1.0}},
    ],
)
def test_nonsense_is_refused(changes):
    with pytest.raises(ValidationError):
        profile(**changes)


def test_a_write_that_fails_leaves_the_old_profile(folder, monkeypatch):
    profile(shape_digest(folder)).write(folder)
    before = (folder.path / PROFILE_NAME).read_bytes()
    monkeypatch.setattr(json, "dumps", lambda *_, **__: "\ud800")
    with pytest.raises(UnicodeEncodeError):
        profile(shape_digest(folder), machine="other").write(folder)
    assert (folder.path / PROFILE_NAME).read_bytes() == before
    assert [file.name for file in folder.path.glob("*profile*")] == [PROFILE_NAME]


def test_shapes_decide_and_not_the_values_of_weights(folder, tmp_path):
    before = shape_digest(folder)
    other = make_random_model(tmp_path / "other", seed=9)
    shutil.rmtree(folder.path / "unet")
    shutil.copytree(other / "unet", folder.path / "unet")
    assert shape_digest(ModelFolder.open(folder.path)) == before
    adapter = folder.path / "adapters" / "student"
    make_random_adapter(folder.path, adapter, seed=4)
    manifest = {"weights": {"student": {"adapter": "adapters/student"}}}
    (folder.path / "sangsang.json").write_text(json.dumps(manifest))
    assert shape_digest(ModelFolder.open(folder.path)) != before


class TestSteps:
    def test_measured_between_and_beyond(self):
        steps = profile()
        assert steps.step_seconds(4, 64, 64) == LINEAR[4]
        assert steps.step_seconds(5, 64, 64) == pytest.approx(0.039)
        assert steps.step_seconds(12, 64, 64) == pytest.approx(0.088)

    def test_other_sizes_cost_by_their_pixels(self):
        assert profile().step_seconds(4, 128, 96) == pytest.approx(3 * LINEAR[4])

    def test_the_nearest_size_speaks_for_others(self):
        large = {"height_px": 128, "width_px": 128, "seconds": {1: 0.1, 8: 0.8}}
        both = profile(steps=[*profile().model_dump()["steps"], large])
        assert both.step_seconds(8, 128, 128) == 0.8
        assert both.step_seconds(8, 128, 112) == pytest.approx(0.7)
        assert both.step_seconds(4, 32, 64) == pytest.approx(LINEAR[4] / 2)

    def test_noise_never_makes_more_rows_take_less_than_fewer(self):
        noisy = StepProfile(height_px=64, width_px=64, seconds={2: 0.03, 4: 0.02})
        assert noisy.step_seconds(9) >= 0.02
        assert noisy.step_seconds(1) > 0

    def test_one_measurement_is_enough(self):
        single = StepProfile(height_px=64, width_px=64, seconds={2: 0.03})
        assert single.step_seconds(4) == pytest.approx(0.06)
        assert single.row_limit(0.1) == 2


class TestRowLimit:
    def test_the_least_rows_within_the_gain_of_the_best(self):
        assert profile().row_limit(64, 64) == 4
        assert profile().row_limit(64, 64, min_gain=0.0) == 8
        assert profile().row_limit(64, 64, min_gain=0.03) == 6
        assert profile().row_limit(64, 64, min_gain=9.0) == 1

    def test_a_dip_is_not_the_end(self):
        dip = StepProfile(
            height_px=64, width_px=64, seconds={1: 0.01, 2: 0.0198, 4: 0.02, 8: 0.021}
        )
        assert dip.row_limit(0.1) == 8

    def test_rows_that_get_dearer_are_not_worth_it(self):
        worse = StepProfile(height_px=64, width_px=64, seconds={1: 0.01, 2: 0.03})
        assert worse.row_limit(0.1) == 1

    def test_other_sizes_do_as_much_work(self):
        assert profile().row_limit(128, 128) == 1
        assert profile().row_limit(64, 128) == 2
        assert profile().row_limit(64, 96) == 3
        assert profile().row_limit(32, 32) == 16


class TestStages:
    def test_seconds(self):
        assert profile().stage_seconds("postprocessing") == 0.015
        with pytest.raises(KeyError):
            profile().stage_seconds("preprocessing")

    def test_slowdowns_either_way_round(self):
        assert profile().slowdown("diffusion", "postprocessing") == 1.2
        assert profile().slowdown("postprocessing", "diffusion") == 2.0
        assert profile().slowdown("preprocessing", "diffusion") == 1.0

    def test_pairs_that_do_less_at_once_than_in_turns(self):
        assert profile().forbidden_pairs == {frozenset(("diffusion", "text_encoding"))}

    def test_two_on_one_core_are_even(self):
        even = PairProfile(stage="diffusion", other="preprocessing", slowdown=2, other_slowdown=2)
        assert even.together == 1
        assert not profile(pairs=[even]).forbidden_pairs


class TestCosts:
    def test_seconds_caps_and_the_hard_limit(self):
        costs = ProfiledCosts(8, lambda key: (key, 64), profile())
        assert costs.step_cost(64, 4) == costs.step_seconds(64, 4) == LINEAR[4]
        assert [costs.row_limit(side) for side in (32, 64, 128, 256)] == [8, 4, 2, 1]
        assert ProfiledCosts(3, lambda key: (key, 64), profile()).row_limit(64) == 3

    def test_a_slower_machine_is_noticed(self):
        costs = ProfiledCosts(8, lambda key: (key, 64), profile())
        for _ in range(200):
            costs.note_step(64, 4, 2 * LINEAR[4])
        assert costs.step_seconds(64, 8) == pytest.approx(2 * LINEAR[8], rel=0.01)
        assert costs.step_cost(64, 8) == LINEAR[8]
