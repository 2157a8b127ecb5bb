"""What is compared follows from the manifest; more comes from the command line."""

import json

import pytest

from sangsang.services.diffusion.evaluation.configurations import (
    BadConfiguration,
    Configuration,
    parse_configuration,
    read_configurations,
)
from sangsang.services.runtime.errors import ModelNotReady

FREE = {"step_count": 3, "guidance_scale": 1.0, "scheduler": "lcm", "weights": "student"}
PRO = {"step_count": 35, "guidance_scale": 5.0, "max_step_count": 50}


def read(folder, **manifest):
    (folder / "sangsang.json").write_text(json.dumps(manifest))
    return read_configurations(folder)


def test_the_control_has_the_references_weights_and_the_free_step_count(tmp_path):
    reference, control, free = read(
        tmp_path,
        default_scheduler="ddim",
        tiers={"free": FREE, "pro": PRO},
        weights={"student": {"adapter": "adapters/student"}},
    )
    assert reference == Configuration("pro", 35, 5.0, "ddim", "base")
    assert control == Configuration("pro at 3", 3, 5.0, "ddim", "base")
    assert free == Configuration("free", 3, 1.0, "lcm", "student")


def test_no_control_where_the_step_counts_agree(tmp_path):
    found = read(tmp_path, tiers={"free": {**FREE, "step_count": 35}, "pro": PRO})
    assert [one.name for one in found] == ["pro", "free"]


def test_a_folder_without_a_manifest_has_one_row(tmp_path):
    assert read_configurations(tmp_path) == [Configuration("pro", 30, 7.5)]


def test_a_model_with_a_free_tier_alone(tmp_path):
    assert [one.name for one in read(tmp_path, default_tier="free", tiers={"free": FREE})] == [
        "free"
    ]


@pytest.mark.parametrize("tiers", [{"pro": {"step_count": 0}}, {"pro": 3}, []])
def test_a_bad_manifest_is_refused_by_its_field(tmp_path, tiers):
    with pytest.raises(ModelNotReady, match="tiers"):
        read(tmp_path, tiers=tiers)


def test_a_configuration_of_the_command_line():
    found = parse_configuration("quick=4,1.5,lcm,student")
    assert found == Configuration("quick", 4, 1.5, "lcm", "student")
    assert parse_configuration("plain=20") == Configuration("plain", 20, 7.5)
    assert parse_configuration("own scheduler=20,2,,student").scheduler is None


@pytest.mark.parametrize("text", ["", "x", "=3", "x=", "x=three", "x=0", "x=3,a", "x=3,1,a,b,c"])
def test_a_bad_configuration_is_refused_with_an_example(text):
    with pytest.raises(BadConfiguration, match="NAME=steps"):
        parse_configuration(text)
