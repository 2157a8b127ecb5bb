"""Compose itself takes every file of `deploy`, alone and together; no daemon is needed for this."""

import docker_daemon
import pytest
import yaml
from container_mesh import SERVICES, STAGES, ContainerMesh
from docker_daemon import DockerDaemon


@pytest.fixture
def config(tmp_path):
    """What compose makes of files."""
    if reason := docker_daemon.unavailable():
        pytest.skip(reason)
    mesh = ContainerMesh(DockerDaemon(tmp_path))

    def read(*files: str, options: tuple[str, ...] = ()) -> dict:
        return yaml.safe_load(mesh.compose(*options, "config", files=files))["services"]

    return read


def test_observability_is_a_profile(config):
    added = {"collector", "jaeger", "prometheus", "grafana"}
    assert set(config(options=("--profile", "observability"))) == {*SERVICES, *added}


def test_a_second_device_is_a_diffusion_stage_like_the_first(config):
    services = config("deploy/compose.two-devices.yaml")
    assert services["diffusion-2"] == services["diffusion"]
    told = services["orchestrator"]["environment"]["SANGSANG_DIFFUSION_ADDRESS"]
    assert told == "diffusion:50053,diffusion-2:50053"
    waits = services["orchestrator"]["depends_on"]
    assert {name: wait["condition"] for name, wait in waits.items()} == dict.fromkeys(
        (*STAGES, "diffusion-2"), "service_healthy"
    )


def test_every_stage_gets_the_gpu_and_the_orchestrator_does_not(config):
    services = config("deploy/compose.gpu.yaml", "deploy/compose.mps.yaml")
    for name in STAGES:
        [device] = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia"
        assert device["device_ids"] == ["0"]
        assert device["capabilities"] == ["gpu"]
        assert services[name]["image"] == "sangsang-stage:gpu"
        assert services[name]["build"]["target"] == "gpu-stage"
        assert services[name]["environment"]["SANGSANG_BACKEND"] == "tensorrt"
        assert services[name]["environment"]["CUDA_MPS_PIPE_DIRECTORY"] == "/mps"
        assert services[name]["read_only"] is True
    assert "deploy" not in services["orchestrator"]
