"""What is compared follows from the manifest; more comes from the command line."""

import pytest
from other_weights import add_adapter, write_manifest
from random_models import make_random_model

from sangsang.services.diffusion.evaluation.configurations import (
    BadConfiguration,
    Configuration,
    parse_configuration,
    read_configurations,
)
from sangsang.services.runtime.models.folder import MANIFEST_NAME, ModelFolder
from sangsang.services.runtime.models.manifest import Manifest

FREE = {"step_count": 3, "guidance_scale": 1.0, "scheduler": "lcm", "weights": "student"}
PRO = {"step_count": 35, "guidance_scale": 5.0, "max_step_count": 50}


WEIGHTS = {"student": {"adapter": "adapters/student"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = make_random_model(tmp_path_factory.mktemp("models") / "tiny")
    add_adapter(path)
    return path


def read(folder, **manifest):
    write_manifest(folder, **manifest)
    return read_configurations(Manifest.read(ModelFolder.open(folder)))


def test_the_control_has_the_references_weights_and_the_free_step_count(folder):
    reference, control, free = read(
        folder,
        default_scheduler="ddim",
        tiers={"free": FREE, "pro": PRO},
        weights=WEIGHTS,
    )
    assert reference == Configuration("pro", 35, 5.0, "ddim", "base")
    assert control == Configuration("pro at 3", 3, 5.0, "ddim", "base")
    assert free == Configuration("free", 3, 1.0, "lcm", "student")


def test_no_control_where_the_step_counts_agree(folder):
    tiers = {"free": {**FREE, "step_count": 35}, "pro": PRO}
    found = read(folder, tiers=tiers, weights=WEIGHTS)
    assert [one.name for one in found] == ["pro", "free"]


def test_a_folder_without_a_manifest_has_one_row(folder):
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    found = read_configurations(Manifest.read(ModelFolder.open(folder)))
    assert found == [Configuration("pro", 30, 7.5)]


def test_a_model_with_a_free_tier_alone(folder):
    found = read(folder, default_tier="free", tiers={"free": FREE}, weights=WEIGHTS)
    assert [one.name for one in found] == ["free"]


def test_a_configuration_of_the_command_line():
    found = parse_configuration("quick=4,1.5,lcm,student")
    assert found == Configuration("quick", 4, 1.5, "lcm", "student")
    assert parse_configuration("plain=20") == Configuration("plain", 20, 7.5)
    assert parse_configuration("own scheduler=20,2,,student").scheduler is None


@pytest.mark.parametrize("text", ["", "x", "=3", "x=", "x=three", "x=0", "x=3,a", "x=3,1,a,b,c"])
def test_a_bad_configuration_is_refused_with_an_example(text):
    with pytest.raises(BadConfiguration, match="NAME=steps"):
        parse_configuration(text)
