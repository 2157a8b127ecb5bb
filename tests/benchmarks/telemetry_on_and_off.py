"""What tracing costs: the same load on a mesh that traces and on one that does not, in turns.

Both meshes run all the time and only one of them is asked at a time, round by round, so that
whatever else the machine does meets both. The engines are timed: they hold a device for as long as
a profile says and take no core, so the processes' own work is what differs. Reported is the
throughput with tracing over that without, round by round, the CPU seconds of a picture, the spans
that were lost by the metric, and how much memory the processes took on the way.

Traces go to the orchestrator, or with `--collector` to one that is dead, silent, slow, or refuses
them. The queue of a process then fills up: give it rounds enough (4096 spans, of which a picture
has about fourteen in the orchestrator), and memory must not grow after that.

Run on a quiet machine: python -m tests.benchmarks.telemetry_on_and_off
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
from rich.console import Console
from rich.table import Table

from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc
from sangsang.orchestrator.local_mesh import STAGES, LocalMesh
from sangsang.orchestrator.simulation.generated import Mix, closed_loop
from sangsang.orchestrator.simulation.presets import PROFILES
from sangsang.orchestrator.simulation.workload import Workload
from sangsang.services.runtime.metrics import declarations

from ..support.collectors import USELESS
from ..support.scraping import Values, fetch, free_ports
from .cpu_by_process import cpu_seconds
from .simulation_against_mesh import Case, Client, slowed, timed_mesh

CALLERS = 16
KEPT = "orchestrator"
SERVICES = ("orchestrator", *STAGES)


class Side:
    """One of the two meshes, and what has been seen of it.

    Attributes:
        per_s: pictures a second, by round.
        cpu_s: CPU seconds of a picture, by round.
        memory_mib: of each process, after each round.
    """

    def __init__(self, mesh: LocalMesh) -> None:
        self._mesh = mesh
        self.per_s: list[float] = []
        self.cpu_s: list[float] = []
        self.memory_mib: dict[str, list[float]] = {name: [] for name in SERVICES}

    async def play(self, workload: Workload) -> None:
        async with grpc.aio.insecure_channel(self._mesh.address) as channel:
            client = Client(imaging_grpc.ImageGenerationServiceStub(channel))
            before_s, started_s = self._cpu_seconds(), time.perf_counter()
            seen = await client.play(workload)
            count = len(seen.latencies_s)
            self.per_s.append(count / (time.perf_counter() - started_s))
            self.cpu_s.append((self._cpu_seconds() - before_s) / count)
        for one in self._mesh.processes:
            self.memory_mib[one.name].append(one.memory_mib)

    def lost_span_count(self, name: str) -> int:
        """Spans that a process has lost, by its metrics."""
        port = int(self._mesh.metrics_address(name).rpartition(":")[2])
        return int(Values(fetch(port)).of(declarations.SPANS_LOST))

    def _cpu_seconds(self) -> float:
        return sum(cpu_seconds(self._mesh).values())


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--requests", type=int, default=80, help="of each round")
    parser.add_argument("--slower", type=float, default=0.5, help="times of the A100's times")
    parser.add_argument(
        "--collector",
        action="append",
        choices=(KEPT, *USELESS, "all"),
        help=f"who gets the spans, again for several; by default {KEPT}",
    )
    arguments = parser.parse_args()
    asked = arguments.collector or [KEPT]
    for kind in (KEPT, *USELESS) if "all" in asked else asked:
        with tempfile.TemporaryDirectory() as folder, collector(kind) as told:
            compare(kind, told, Path(folder), arguments)


@contextmanager
def collector(kind: str) -> Iterator[Mapping[str, str]]:
    """What a mesh is told of where its traces go."""
    if kind == KEPT:
        yield {"SANGSANG_OTLP_ENDPOINT": ""}
        return
    with USELESS[kind]() as address:
        yield {"SANGSANG_OTLP_ENDPOINT": f"http://{address}"}


def compare(
    kind: str, told: Mapping[str, str], folder: Path, arguments: argparse.Namespace
) -> None:
    """Plays the rounds against one collector, and prints what was seen."""
    work = closed_loop(Mix(), concurrency=CALLERS, request_count=arguments.requests, seed=0)
    profile = slowed(PROFILES / "sd15-a100.json", folder / "a100.json", arguments.slower)
    case = Case("tracing", profile, 1, work)
    ports = free_ports(2 * len(SERVICES))
    with ExitStack() as stack:
        sides = {
            traced: Side(
                stack.enter_context(
                    timed_mesh(
                        case,
                        folder / "cache",
                        name=f"tracing-{traced}",
                        environment={**told, "SANGSANG_TRACING": str(traced).lower()},
                        metrics_port=ports + traced * len(SERVICES),
                    )
                )
            )
            for traced in (True, False)
        }
        # The first round warms both up.
        for number in range(arguments.rounds + 1):
            for traced in (True, False) if number % 2 else (False, True):
                asyncio.run(sides[traced].play(work))
        out = Console()
        out.print(f"spans go to: {kind}")
        report_speed(out, sides)
        report_processes(out, sides)


def report_speed(out: Console, sides: Mapping[bool, Side]) -> None:
    table = Table("tracing", "pictures a second, median", "CPU ms a picture, median")
    for traced, side in sides.items():
        cpu = f"{statistics.median(side.cpu_s[1:]) * 1000:.1f}"
        median = f"{statistics.median(side.per_s[1:]):.2f}"
        table.add_row("on" if traced else "off", median, cpu)
    out.print(table)
    pairs = zip(sides[True].per_s[1:], sides[False].per_s[1:], strict=True)
    ratios = sorted(on / off for on, off in pairs)
    out.print(
        f"on / off: median {statistics.median(ratios):.3f}, "
        f"from {ratios[0]:.3f} to {ratios[-1]:.3f} in {len(ratios)} rounds"
    )


def report_processes(out: Console, sides: Mapping[bool, Side]) -> None:
    on, off = sides[True], sides[False]
    table = Table("process", "spans lost", "MiB, on", "in the last half", "MiB, off")
    for name in SERVICES:
        seen = on.memory_mib[name]
        table.add_row(
            name,
            str(on.lost_span_count(name)),
            _grown(seen),
            f"{seen[-1] - seen[len(seen) // 2]:+.1f}",
            _grown(off.memory_mib[name]),
        )
    out.print(table)


def _grown(memory_mib: list[float]) -> str:
    """Returns what a process took after the first round and after the last."""
    return f"{memory_mib[0]:.1f} -> {memory_mib[-1]:.1f} ({memory_mib[-1] - memory_mib[0]:+.1f})"


if __name__ == "__main__":
    main()
