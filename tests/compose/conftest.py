"""One daemon, one build and one mesh for all tests of containers; skipped where none can run."""

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

import docker_daemon
import pytest
from container_mesh import PYTHON_IMAGE, ContainerMesh, make_build_image
from docker_daemon import BASE, ROOT, ContainersUnavailable, DockerDaemon

MEASURED = ROOT / "out" / "compose.json"


@pytest.fixture(scope="session")
def measured():
    """What the tests measure, for deploy/README.md; written to out/compose.json."""
    figures: dict[str, object] = {}
    yield figures
    MEASURED.parent.mkdir(exist_ok=True)
    MEASURED.write_text(json.dumps(figures, indent=2) + "\n")


@pytest.fixture(scope="session")
def daemon():
    if reason := docker_daemon.unavailable():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="sangsang-docker-"))
    with ExitStack() as stack:
        try:
            running = stack.enter_context(DockerDaemon(folder))
            running.make_first_image(BASE / "python.tar", PYTHON_IMAGE)
        except ContainersUnavailable as error:
            pytest.skip(str(error))
        yield running


@pytest.fixture(scope="session")
def images(daemon, measured):
    """Builds the images that the mesh runs on; returns a mesh that is not up."""
    make_build_image(daemon)
    mesh = ContainerMesh(daemon)
    mesh.compose("build", timeout_s=400.0)
    for name in (PYTHON_IMAGE, "sangsang-orchestrator", "sangsang-stage:cpu"):
        size = daemon.docker("image", "inspect", "--format", "{{.Size}}", name)
        measured[f"{name} MB"] = round(int(size) / 1e6, 1)
    return mesh


@pytest.fixture(scope="session")
def mesh(images):
    """The mesh, up and healthy."""
    try:
        images.up(files=("tests/compose/compose.test.yaml",))
        yield images
    finally:
        images.down()
