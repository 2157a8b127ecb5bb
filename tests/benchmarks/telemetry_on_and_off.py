"""What tracing costs: the same load on a mesh that traces and on one that does not, in turns.

Both meshes run all the time and only one of them is asked at a time, round by round, so that
whatever else the machine does meets both. The engines are timed: they hold a device for as long as
a profile says and take no core, so the processes' own work is what differs. Reported is the
throughput with tracing over that without, round by round, and the CPU seconds of a picture.

Run on a quiet machine: python -m tests.benchmarks.telemetry_on_and_off
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import grpc
import psutil
from rich.console import Console
from rich.table import Table

from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc
from sangsang.orchestrator.local_mesh import LocalMesh
from sangsang.orchestrator.simulation.generated import Mix, closed_loop
from sangsang.orchestrator.simulation.presets import PROFILES
from sangsang.orchestrator.simulation.workload import Workload

from .simulation_against_mesh import Case, Client, slowed, timed_mesh

CALLERS = 16


class Side:
    """One of the two meshes, and what has been seen of it."""

    def __init__(self, mesh: LocalMesh) -> None:
        self._mesh = mesh
        self.per_s: list[float] = []
        self.cpu_s: list[float] = []

    async def play(self, workload: Workload) -> None:
        async with grpc.aio.insecure_channel(self._mesh.address) as channel:
            client = Client(imaging_grpc.ImageGenerationServiceStub(channel))
            before_s, started_s = self._cpu_seconds(), time.perf_counter()
            seen = await client.play(workload)
            count = len(seen.latencies_s)
            self.per_s.append(count / (time.perf_counter() - started_s))
            self.cpu_s.append((self._cpu_seconds() - before_s) / count)

    def _cpu_seconds(self) -> float:
        times = [psutil.Process(one.pid).cpu_times() for one in self._mesh.children.values()]
        return sum(one.user + one.system for one in times)


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--requests", type=int, default=80, help="of each round")
    parser.add_argument("--slower", type=float, default=0.5, help="times of the A100's times")
    arguments = parser.parse_args()
    work = closed_loop(Mix(), concurrency=CALLERS, request_count=arguments.requests, seed=0)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        profile = slowed(PROFILES / "sd15-a100.json", folder / "a100.json", arguments.slower)
        case = Case("tracing", profile, 1, work)
        sides = {
            traced: Side(
                stack.enter_context(
                    timed_mesh(
                        case,
                        folder / "cache",
                        name=f"tracing-{traced}",
                        environment={"SANGSANG_TRACING": str(traced).lower()},
                    )
                )
            )
            for traced in (True, False)
        }
        # The first round warms both up.
        for number in range(arguments.rounds + 1):
            for traced in (True, False) if number % 2 else (False, True):
                asyncio.run(sides[traced].play(work))
    report({traced: (side.per_s[1:], side.cpu_s[1:]) for traced, side in sides.items()})


def report(seen: dict[bool, tuple[list[float], list[float]]]) -> None:
    table = Table("tracing", "pictures a second, median", "CPU ms a picture, median")
    for traced, (per_s, cpu_s) in seen.items():
        cpu = f"{statistics.median(cpu_s) * 1000:.1f}"
        table.add_row("on" if traced else "off", f"{statistics.median(per_s):.2f}", cpu)
    out = Console()
    out.print(table)
    ratios = sorted(on / off for on, off in zip(seen[True][0], seen[False][0], strict=True))
    out.print(
        f"on / off: median {statistics.median(ratios):.3f}, "
        f"from {ratios[0]:.3f} to {ratios[-1]:.3f} in {len(ratios)} rounds"
    )


if __name__ == "__main__":
    main()
