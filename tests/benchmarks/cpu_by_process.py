"""What a picture costs each process of the mesh in CPU time: which of them is full first.

The engines are timed: they hold a device and take no core, so what is counted is the mesh's own
work. Tensors are those of `pocket`, which are smaller than a large model's: what the wire costs
more there is measured by itself, as the cost of a MiB that a process takes in and hands on.

Run: python -m tests.benchmarks.cpu_by_process
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import grpc
import psutil
from rich.console import Console
from rich.table import Table

from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc
from sangsang.orchestrator.local_mesh import STAGES, LocalMesh
from sangsang.orchestrator.simulation.generated import DEFAULT_MIX, Mix, TierMix, closed_loop
from sangsang.orchestrator.simulation.presets import PROFILES
from sangsang.services.runtime.calls import open_channel
from sangsang.services.runtime.settings import MEBIBYTE

from .hops import METHOD, start_echo
from .simulation_against_mesh import Case, Client, slowed, timed_mesh

CALLERS = 16
PAYLOAD_BYTES = 256 * 1024


def cpu_seconds(mesh: LocalMesh) -> dict[str, float]:
    times = {name: psutil.Process(one.pid).cpu_times() for name, one in mesh.children.items()}
    return {name: one.user + one.system for name, one in times.items()}


async def play(mesh: LocalMesh, kind: TierMix, tier: str, count: int) -> Mapping[str, float]:
    """Returns the CPU seconds of a picture by process."""
    work = closed_loop(Mix({tier: kind}), concurrency=CALLERS, request_count=count, seed=0)
    async with grpc.aio.insecure_channel(mesh.address) as channel:
        client = Client(imaging_grpc.ImageGenerationServiceStub(channel))
        await client.play(closed_loop(Mix({tier: kind}), concurrency=4, request_count=8, seed=1))
        before = cpu_seconds(mesh)
        await client.play(work)
    return {name: (after - before[name]) / count for name, after in cpu_seconds(mesh).items()}


async def relayed_mebibyte(count: int) -> float:
    """Returns the CPU seconds that a MiB costs a process that takes it in and hands it on."""
    server, port = await start_echo()
    process, seconds = psutil.Process(), {}
    async with open_channel(f"127.0.0.1:{port}", max_message_bytes=MEBIBYTE) as channel:
        call = channel.unary_unary(METHOD)
        for size in (0, PAYLOAD_BYTES):
            payload = bytes(size)
            await call(payload)
            before = process.cpu_times()
            for _ in range(count):
                await call(payload)
            after = process.cpu_times()
            seconds[size] = after.user + after.system - before.user - before.system
    await server.stop(None)
    # Both ends are in this process: it has sent the payload twice and taken it twice, a relay does
    # either once.
    return (seconds[PAYLOAD_BYTES] - seconds[0]) / count / 2 * (MEBIBYTE / PAYLOAD_BYTES)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=100, help="of each tier")
    parser.add_argument("--slower", type=float, default=0.5, help="times of the A100's times")
    arguments = parser.parse_args()
    out = Console()
    table = Table(
        "tier", "orchestrator", "text", "pre", "diffusion", "post", "all, CPU ms a picture"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        profile = slowed(PROFILES / "sd15-a100.json", folder / "a100.json", arguments.slower)
        case = Case("cpu", profile, 1, closed_loop(Mix(), concurrency=1, request_count=1, seed=0))
        with timed_mesh(case, folder / "cache", name=f"cpu-{os.getpid()}") as mesh:
            for tier, kind in DEFAULT_MIX.items():
                found = asyncio.run(play(mesh, kind, tier, arguments.pictures))
                cells = [f"{found[one] * 1000:.1f}" for one in ("orchestrator", *STAGES)]
                table.add_row(tier, *cells, f"{sum(found.values()) * 1000:.1f}")
    out.print(table)
    out.print(f"a MiB that is handed on: {asyncio.run(relayed_mebibyte(200)) * 1000:.2f} CPU ms")


if __name__ == "__main__":
    main()
