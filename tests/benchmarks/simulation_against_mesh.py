"""Does the simulator say what the live mesh does? The same requests through both.

The mesh is real: processes, gRPC, the scheduler and the step loops. Its engines are *timed*: they
hold a device for as long as a profile says, so that eight GPUs are served on two cores. What the
mesh takes beside its devices (a request, a call of each stage, the pause between two steps) is
measured first, one request at a time on the idle mesh, and given to the simulator; nothing else is.

Cases: the talk's schedule (its models 1, 2, 1' as one text encoding, 3, 4, 5 as one decode, light
beside heavy at full speed), and Free and Pro with the profile of an A100, one device and eight, two
lanes each, always busy and at random arrivals. The lower bound leaves overheads out.

Run on a quiet machine: python -m tests.benchmarks.simulation_against_mesh
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import numpy as np
from rich.console import Console
from rich.table import Table

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc
from sangsang.orchestrator.cli.simulate_mix import capacity_per_s
from sangsang.orchestrator.local_mesh import STAGES, LocalMesh
from sangsang.orchestrator.scheduling.admission import AdmissionLimits
from sangsang.orchestrator.simulation.bounds import lower_bound
from sangsang.orchestrator.simulation.generated import Mix, closed_loop, open_loop
from sangsang.orchestrator.simulation.mesh import Overheads, RowRules
from sangsang.orchestrator.simulation.model_times import ModelTimes, timed_times
from sangsang.orchestrator.simulation.presets import PROFILES
from sangsang.orchestrator.simulation.simulation import Scenario, simulate
from sangsang.orchestrator.simulation.workload import Request, Workload
from sangsang.services.runtime.engines.timed import TimedProfile
from sangsang.services.runtime.engines.timed_device import device_path

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "deploy" / "models" / "pocket"
SIDE_PX = 64
TIERS = {"free": imaging.TIER_FREE, "pro": imaging.TIER_PRO}
MOST_WAITING = 4096
# Models 1, 2, 1' and 3, 4, 5 of 0.1 s each, steps of 0.2 s that more rows make longer.
TALK = {
    "device": "the talk's GPU",
    "precision": "f16",
    "seconds": {
        "text_encoder": {"1": 0.3},
        "vae_encoder": {"1": 0.3},
        "unet": {"1": 0.2, "8": 1.6},
        "vae_decoder": {"1": 0.3},
    },
    "rates": {"1": 1.0, "2": 1.0},
}


@dataclass(frozen=True)
class Case:
    name: str
    profile: Path
    device_count: int
    workload: Workload
    row_limit: int = 8


@dataclass(frozen=True)
class Seen:
    """What came of a workload, live or simulated."""

    makespan_s: float
    latencies_s: list[float]

    @property
    def figures(self) -> tuple[float, float, float]:
        mean_s, p95_s = np.mean(self.latencies_s), np.percentile(self.latencies_s, 95)
        return self.makespan_s, float(mean_s), float(p95_s)


class Client:
    """Asks a mesh for pictures and notes how long they take."""

    def __init__(self, stub: imaging_grpc.ImageGenerationServiceStub) -> None:
        self._stub = stub
        self._count = 0

    async def ask(self, request: Request) -> tuple[float, imaging.GenerationStats]:
        self._count += 1
        spec = imaging.ImageSpec(
            model_id="pocket",
            # A text of its own: known ones cost a device nothing.
            prompt=f"a cat {os.getpid()} {self._count}",
            seed=self._count,
            tier=TIERS[request.tier],
        )
        started_s = time.perf_counter()
        response = await self._stub.GenerateImages(imaging.GenerateImagesRequest(spec=spec))
        return time.perf_counter() - started_s, response.stats

    async def play(self, workload: Workload) -> Seen:
        latencies: list[float] = []
        started_s = time.perf_counter()
        if workload.concurrency is None:
            calls = [self._at(one, started_s) for one in workload.requests]
            latencies += await asyncio.gather(*calls)
        else:
            rest = iter(workload.requests)

            async def caller() -> None:
                for request in rest:
                    latencies.append((await self.ask(request))[0])

            await asyncio.gather(*(caller() for _ in range(workload.concurrency)))
        return Seen(time.perf_counter() - started_s, latencies)

    async def _at(self, request: Request, started_s: float) -> float:
        await asyncio.sleep(started_s + request.arrival_s - time.perf_counter())
        return (await self.ask(request))[0]

    async def overheads(self, times: ModelTimes, repeats: int) -> Overheads:
        """Measures what the idle mesh takes beside its device."""
        seen: dict[str, list[dict[str, float]]] = {"free": [], "pro": []}
        for _ in range(repeats + 1):
            for tier, steps, rows in (("free", 3, 1), ("pro", 35, 2)):
                latency_s, stats = await self.ask(Request("", 0.0, tier))
                took = {
                    imaging.Stage.Name(one.stage).removeprefix("STAGE_").lower(): one
                    for one in stats.stages
                }
                spent = {name: one.duration.ToNanoseconds() / 1e9 for name, one in took.items()}
                alone = {call.stage: call.seconds for call in times.calls(1)}
                alone["diffusion"] = steps * times.step_seconds(rows, times.size_px)
                extra = {name: spent[name] - alone[name] for name in alone}
                seen[tier].append({**extra, "request": latency_s - sum(spent.values())})
        # The first of each warms the mesh up.
        median = {
            tier: {name: statistics.median(one[name] for one in some[1:]) for name in some[0]}
            for tier, some in seen.items()
        }
        free, pro = median["free"], median["pro"]
        step_s = max(0.0, (pro["diffusion"] - free["diffusion"]) / (35 - 3))
        calls = {stage: max(0.0, free[stage]) for stage in STAGES}
        calls["diffusion"] = max(0.0, free["diffusion"] - 3 * step_s)
        return Overheads(request_s=max(0.0, free["request"]), call_s=calls, step_s=step_s)


@contextmanager
def timed_mesh(
    case: Case,
    cache_dir: Path,
    *,
    name: str = "simulation",
    environment: Mapping[str, str] | None = None,
    metrics_port: int = 0,
) -> Iterator[LocalMesh]:
    """A mesh of timed engines: each device has one replica of every stage."""
    names = [f"{name}-{os.getpid()}-{number}" for number in range(case.device_count)]
    try:
        with LocalMesh(
            [MODEL],
            cache_dir=cache_dir,
            replicas=dict.fromkeys(STAGES, case.device_count),
            metrics_port=metrics_port,
            environment={
                "SANGSANG_BACKEND": "timed",
                "SANGSANG_TIMED_PROFILE": str(case.profile),
                "SANGSANG_BATCH_ROW_LIMIT": str(case.row_limit),
                "SANGSANG_MAX_QUEUED_REQUESTS": str(MOST_WAITING),
                "SANGSANG_MAX_QUEUED_S": "3600",
                "SANGSANG_LOG_LEVEL": "error",
                **(environment or {}),
            },
            device_environment=lambda number: {"SANGSANG_TIMED_DEVICE": names[number]},
        ) as mesh:
            yield mesh
    finally:
        for one in names:
            device_path(one).unlink(missing_ok=True)


async def live(address: str, case: Case, times: ModelTimes, repeats: int) -> tuple[Overheads, Seen]:
    async with grpc.aio.insecure_channel(address) as channel:
        client = Client(imaging_grpc.ImageGenerationServiceStub(channel))
        overheads = await client.overheads(times, repeats)
        return overheads, await client.play(case.workload)


def scenario_of(case: Case, times: ModelTimes) -> Scenario:
    # `pocket` has no profile, so the live schedulers learn what steps cost.
    return Scenario(
        case.name,
        times,
        case.workload,
        case.device_count,
        rules=RowRules(row_limit=case.row_limit, known=False),
        limits=AdmissionLimits(MOST_WAITING, 3600.0),
    )


def make_cases(folder: Path, devices: list[int], requests: int, slower: float) -> Iterator[Case]:
    """The talk's schedule with 2 and 8 requests; each number of devices, busy and at random."""
    talk = folder / "talk.json"
    talk.write_text(json.dumps(TALK))
    for count in (2, 8):
        together = tuple(Request(f"{number}", 0.0) for number in range(count))
        # Its steps are not shared; 2 is the least that a service may be set to.
        yield Case(f"the talk's schedule, {count} requests", talk, 1, Workload(together), 2)
    a100 = slowed(PROFILES / "sd15-a100.json", folder / "a100.json", slower)
    times = timed_times(TimedProfile.read(a100), SIDE_PX)
    for count in devices:
        total = requests * count
        busy = closed_loop(Mix(), concurrency=32 * count, request_count=total, seed=0)
        yield Case(f"{count} devices, always busy", a100, count, busy)
        case = Case(f"{count} devices, 0.7 of what they can do", a100, count, busy)
        rate = 0.7 * capacity_per_s(scenario_of(case, times), Mix())
        arrivals = open_loop(Mix(), rate_per_s=rate, request_count=total, seed=0)
        yield replace(case, workload=arrivals)


def slowed(source: Path, path: Path, factor: float) -> Path:
    fields = json.loads(source.read_text("utf-8"))
    for by_rows in fields["seconds"].values():
        by_rows.update({rows: seconds * factor for rows, seconds in by_rows.items()})
    path.write_text(json.dumps(fields))
    return path


def row_of(case: Case, found: Seen, times: ModelTimes, overheads: Overheads) -> list[str]:
    scenario = replace(scenario_of(case, times), overheads=overheads)
    run = simulate(scenario)
    bound_s = lower_bound(run).seconds
    simulated = Seen(run.makespan_s, [outcome.latency_s for outcome in run.outcomes])
    cells = [
        f"{a:.3f}, {b:.3f}: {b / a:.3f}"
        for a, b in zip(found.figures, simulated.figures, strict=True)
    ]
    bare = simulate(scenario_of(case, times)).makespan_s
    ratios = (bound_s / found.makespan_s, bound_s / run.makespan_s, bound_s / bare)
    return [case.name, *cells, ", ".join(f"{ratio:.3f}" for ratio in ratios)]


def overhead_text(overheads: Overheads) -> str:
    calls: Mapping[str, float] = {"request": overheads.request_s, **overheads.call_s}
    parts = [f"{name} {seconds * 1000:.2f}" for name, seconds in calls.items()]
    return ", ".join([*parts, f"between steps {overheads.step_s * 1000:.2f}"])


def main() -> None:
    """Prints a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--only", default="", help="cases with this in their names")
    parser.add_argument("--requests", type=int, default=40, help="for each device")
    parser.add_argument("--slower", type=float, default=1.0, help="times of the A100's times")
    parser.add_argument("--repeats", type=int, default=15, help="requests that tell the overheads")
    arguments = parser.parse_args()
    out = Console(width=150)
    table = Table(
        "live, simulated: ratio",
        "makespan, s",
        "mean latency, s",
        "p95 latency, s",
        "bound / makespan: live, simulated, without overheads",
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = make_cases(folder, arguments.devices, arguments.requests, arguments.slower)
        for case in (one for one in cases if arguments.only in one.name):
            times = timed_times(TimedProfile.read(case.profile), SIDE_PX)
            with timed_mesh(case, folder / "cache") as mesh:
                seen = asyncio.run(live(mesh.address, case, times, arguments.repeats))
            overheads, found = seen
            table.add_row(*row_of(case, found, times, overheads))
            out.print(f"{case.name}: overheads in ms: {overhead_text(overheads)}")
    out.print(table)


if __name__ == "__main__":
    main()
