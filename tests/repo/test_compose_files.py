"""The compose files say what the settings and the services say; no Docker is needed for this."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from deployed_services import SETTINGS, drain_s
from settings_table import SECTIONS, variables

DEPLOY = Path(__file__).parents[2] / "deploy"
FILES = sorted(DEPLOY.glob("compose*.yaml"))


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / name).read_text("utf-8"))


MESH = read("compose.yaml")["services"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_variable_is_a_setting(file):
    known = {
        variable
        for kind in SECTIONS.values()
        for name, field in kind.model_fields.items()
        for variable in variables(name, field)
    }
    named = {
        name
        for service in yaml.safe_load(file.read_text("utf-8"))["services"].values()
        for name in service.get("environment", {})
        if name.startswith("SANGSANG_")
    }
    assert named <= known


@pytest.mark.parametrize("name", SETTINGS)
def test_a_service_is_held_tight(name):
    service = MESH[name]
    assert service["read_only"] is True
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    models = [volume for volume in service["volumes"] if ":/models" in volume]
    assert [volume.rsplit(":", 1)[1] for volume in models] == ["ro"]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_container_has_the_time_that_its_drain_takes(name):
    seconds = int(MESH[name]["stop_grace_period"].removesuffix("s"))
    least_s = drain_s(SETTINGS[name]())
    assert least_s <= seconds < least_s + 10


@pytest.mark.parametrize("name", SETTINGS)
def test_each_port_is_the_service_s_own(name):
    port = SETTINGS[name]().port
    assert MESH[name]["healthcheck"]["test"][-1] == f"127.0.0.1:{port}"
    if name == "orchestrator":
        assert MESH[name]["ports"][0].endswith(f":{port}")
    else:
        variable = f"SANGSANG_{name.replace('-', '_').upper()}_ADDRESS"
        assert MESH["orchestrator"]["environment"][variable] == f"{name}:{port}"
        assert "ports" not in MESH[name]
        assert MESH[name]["networks"] == ["mesh"]


def test_all_that_is_published_is_published_on_loopback():
    ports = [port for service in MESH.values() for port in service.get("ports", ())]
    plain = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", port) for port in ports]
    assert len(plain) == 4
    assert all(port.startswith("127.0.0.1:") for port in plain), plain


def test_images_of_others_are_pinned():
    images = [service["image"] for service in MESH.values() if "build" not in service]
    assert images
    assert all(re.search(r":v?\d+\.\d+\.\d+$", image) for image in images), images


def test_mounted_files_are_there():
    mounts = [
        volume.split(":")[0]
        for service in MESH.values()
        for volume in service.get("volumes", ())
        if volume.startswith("./")
    ]
    assert mounts
    assert all((DEPLOY / mount).exists() for mount in mounts)


def test_the_context_has_what_the_images_copy():
    context = (DEPLOY.parent / ".dockerignore").read_text("utf-8").splitlines()
    let_in = {line[1:] for line in context if line.startswith("!")}
    copied = {
        word
        for line in (DEPLOY / "Dockerfile").read_text("utf-8").splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert copied == let_in
