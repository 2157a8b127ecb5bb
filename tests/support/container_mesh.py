"""The mesh of `deploy/compose.yaml` in containers of a `DockerDaemon`, and callers of it."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from docker_daemon import BASE, ROOT, DockerDaemon, compose_command

PROJECT = "sangsang"
PORT = 50050
ADDRESS = f"127.0.0.1:{PORT}"
PYTHON_IMAGE = "sangsang-test-python"
BUILD_IMAGE = "sangsang-test-build"
BUILD_TIMEOUT_S = 400.0
UP_TIMEOUT_S = 180.0
DOWN_TIMEOUT_S = 120.0
SERVICES = ("text-encoding", "preprocessing", "diffusion", "postprocessing", "orchestrator")
STAGES = SERVICES[:-1]
# No trace of a caller's own; the tests that look at traces name theirs.
_ANY_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@dataclass(frozen=True)
class Answer:
    """What came of one request."""

    seed: int
    code: str
    details: str
    digest: str
    seconds: float


def make_build_image(daemon: DockerDaemon) -> None:
    """Makes an image of the same with pip and all wheels."""
    file = ROOT / "tests" / "compose" / "build.Dockerfile"
    command = ["docker", "build", "--file", str(file), "--tag", BUILD_IMAGE]
    command.append(str(BASE / "wheels"))
    daemon.run(command, timeout_s=BUILD_TIMEOUT_S, environment={"DOCKER_BUILDKIT": "0"})


class ContainerMesh:
    """The compose project, with the files that a test names."""

    def __init__(self, daemon: DockerDaemon, environment: dict[str, str] | None = None) -> None:
        self.daemon = daemon
        self._environment = {
            "COMPOSE_PROJECT_NAME": PROJECT,
            # Debian has no BuildKit; its docker-compose builds by itself.
            "COMPOSE_DOCKER_CLI_BUILD": "0",
            "DOCKER_BUILDKIT": "0",
            "PYTHON_IMAGE": PYTHON_IMAGE,
            "BUILD_IMAGE": BUILD_IMAGE,
            "SANGSANG_PUBLISHED_ADDRESS": ADDRESS,
            **(environment or {}),
        }

    def told(self, **variables: str) -> "ContainerMesh":
        """The same project, with further variables."""
        return ContainerMesh(self.daemon, {**self._environment, **variables})

    def compose(self, *arguments: str, files: tuple[str, ...] = (), timeout_s: float = 60.0) -> str:
        """What a command of compose prints."""
        named = ("deploy/compose.yaml", *files)
        options = [word for file in named for word in ("--file", str(ROOT / file))]
        return self.daemon.run(
            [*compose_command(), *options, *arguments],
            timeout_s=timeout_s,
            environment=self._environment,
            cwd=ROOT,
        )

    def up(self, *arguments: str, files: tuple[str, ...] = ()) -> None:
        """Starts the mesh, or changes it, and waits until all of it is healthy."""
        self.compose("up", "--detach", *arguments, files=files, timeout_s=UP_TIMEOUT_S)
        wait_for(self.is_healthy, timeout_s=UP_TIMEOUT_S, what="every container to be healthy")

    def down(self) -> None:
        """Ends the mesh and removes its containers, networks and volumes."""
        arguments = ("down", "--volumes", "--remove-orphans")
        self.compose(*arguments, timeout_s=DOWN_TIMEOUT_S)

    def is_healthy(self) -> bool:
        """Whether every container that has a health check is healthy."""
        states = [c["State"].get("Health", {}).get("Status") for c in self.inspect()]
        return len(states) >= len(SERVICES) and set(states) <= {"healthy", None}

    def containers(self, service: str = "") -> list[str]:
        """IDs of the running containers of a service, or of all, the oldest first."""
        label = "com.docker.compose"
        filters = ["--filter", f"label={label}.project={PROJECT}"]
        if service:
            filters += ["--filter", f"label={label}.service={service}"]
        return self.daemon.docker("ps", "--quiet", "--no-trunc", *filters).split()[::-1]

    def container(self, service: str) -> str:
        """ID of the only container of a service."""
        [found] = self.containers(service)
        return found

    def inspect(self, service: str = "") -> list[dict[str, Any]]:
        """What Docker knows about containers."""
        found = self.containers(service)
        return json.loads(self.daemon.docker("inspect", *found)) if found else []

    def execute(self, service: str, *command: str) -> str:
        """What a command prints inside a service's container."""
        return self.daemon.docker("exec", self.container(service), *command)

    def logs(self, container: str) -> str:
        """What a container has logged, both streams."""
        command = ["sh", "-c", f"docker logs {container} 2>&1"]
        return self.daemon.run(command, timeout_s=30.0)

    def sangsang(self, *arguments: str, timeout_s: float = 60.0) -> str:
        """What a command prints that is told where the API is, on the host of the daemon."""
        sangsang = str(Path(sys.executable).with_name("sangsang"))
        command = [sangsang, *arguments, "--address", ADDRESS]
        # Wide enough for every column.
        wide = {"COLUMNS": "200"}
        inside = self.daemon.inside(command)
        return self.daemon.run(inside, timeout_s=timeout_s, environment=wide)

    def ask(
        self, count: int = 1, *, timeout_s: float = 30.0, trace_id: str = _ANY_TRACE
    ) -> list[Answer]:
        """What comes of so many requests at once, by seed."""
        caller = str(ROOT / "tests" / "support" / "picture_caller.py")
        command = [sys.executable, caller, ADDRESS, str(count), str(timeout_s), trace_id]
        printed = self.daemon.run(self.daemon.inside(command), timeout_s=timeout_s + 30)
        return [Answer(**fields) for fields in json.loads(printed)]

    def prometheus(self, path: str, **parameters: str) -> Any:
        """What the API of the project's Prometheus answers."""
        url = f"http://127.0.0.1:9090/api/v1/{path}?{urlencode(parameters)}"
        code = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
        command = self.daemon.inside([sys.executable, "-c", code, url])
        return json.loads(self.daemon.run(command, timeout_s=30.0))["data"]

    def call_count(self, container: str, method: str) -> int:
        """How many calls of a method a container has answered OK, by its log."""
        lines = [json.loads(line) for line in self.logs(container).splitlines() if "{" in line[:1]]
        return sum(
            line.get("event") == "call_finished"
            and line.get("code") == "OK"
            and line.get("method", "").endswith(f"/{method}")
            for line in lines
        )


def wait_for(condition: Callable[[], object], *, timeout_s: float, what: str) -> float:
    """Returns how many seconds it took until a condition held."""
    started_at = time.monotonic()
    while not condition():
        waited_s = time.monotonic() - started_at
        assert waited_s < timeout_s, f"waited {waited_s:.0f} s for {what}"
        time.sleep(0.2)
    return time.monotonic() - started_at
