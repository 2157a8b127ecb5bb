"""What it costs to have engines on an NVIDIA Triton server rather than in the stages.

Three meshes of real processes: engines in the stages, the UNet on Triton, all engines on Triton.
The server is on this machine and runs the exported model repository in its Python backend, which
runs the same ONNX Runtime with as many threads. First one picture at a time, the meshes in turns;
then eight at a time, each mesh for itself, in rounds, with the CPU time of all processes, which a
busy machine changes least. Prints medians and, in brackets, how many times the embedded mesh's they
are; of memory what the idle processes hold. Alone, each picture must have the same bytes from all.

Run: make triton && python -m tests.benchmarks.engines_on_a_fleet deploy/models/pocket
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from triton_servers import NoServer, find_venv, running_server

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc
from sangsang.orchestrator.local_mesh import STAGES, LocalMesh
from sangsang.services.runtime.model_repository.repository import export_model
from sangsang.services.runtime.models.folder import ModelFolder

EMBEDDED = "in the stages"
# The stages of each mesh whose engines are on Triton.
REMOTE = {EMBEDDED: (), "UNet on Triton": ("diffusion",), "all on Triton": STAGES}
TIERS = {"free": imaging.TIER_FREE, "pro": imaging.TIER_PRO}
CONCURRENCY = 8
# Of one round: each takes some seconds on two cores.
ROUND_COUNTS = {"free": 48, "pro": 16}
WARM_UP = 2


class Caller:
    """A client of one mesh, whose engines' processes are known."""

    def __init__(
        self,
        stub: imaging_grpc.ImageGenerationServiceStub,
        model_id: str,
        process_ids: Sequence[int],
    ) -> None:
        self._stub, self._model_id = stub, model_id
        self.process_ids = process_ids

    def picture(self, tier: str, seed: int) -> bytes:
        spec = imaging.ImageSpec(
            model_id=self._model_id, prompt="a rocket", seed=seed, tier=TIERS[tier]
        )
        response = self._stub.GenerateImages(imaging.GenerateImagesRequest(spec=spec), timeout=120)
        return response.images[0].data.content

    def seconds(self, tier: str, seed: int) -> tuple[float, bytes]:
        started_at = time.perf_counter()
        content = self.picture(tier, seed)
        return time.perf_counter() - started_at, content

    def eight_at_a_time(self, tier: str, count: int) -> tuple[float, float]:
        """Pictures a second, and the CPU's seconds for one."""
        with ThreadPoolExecutor(CONCURRENCY) as callers:
            started_at, cpu_before = time.perf_counter(), cpu_seconds(self.process_ids)
            list(callers.map(lambda seed: self.picture(tier, seed), range(count)))
            rate = count / (time.perf_counter() - started_at)
            return rate, (cpu_seconds(self.process_ids) - cpu_before) / count


def cpu_seconds(process_ids: Sequence[int]) -> float:
    ticks = 0
    for number in process_ids:
        # Behind the name, which may have spaces, the 12th and 13th.
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mebibytes(process_ids: Sequence[int]) -> float:
    """Proportional: what several processes share counts once."""
    total = 0
    for number in process_ids:
        lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def cells(values: Mapping[str, list[float]], unit: str, scale: float = 1.0) -> list[str]:
    medians = {name: statistics.median(some) for name, some in values.items()}
    return [f"{m * scale:.1f} {unit} ({m / medians[EMBEDDED]:.2f})" for m in medians.values()]


def one_at_a_time(callers: Mapping[str, Caller], tier: str, repeats: int) -> list[str]:
    times: dict[str, list[float]] = {name: [] for name in callers}
    for seed in track(range(repeats + WARM_UP), description=tier, transient=True):
        contents: set[bytes] = set()
        for name, caller in callers.items():
            seconds, content = caller.seconds(tier, seed)
            contents.add(content)
            if seed >= WARM_UP:
                times[name].append(seconds)
        # A comparison of speeds is worth nothing unless all make the same picture.
        assert len(contents) == 1, f"{tier}, seed {seed}: the meshes differ"
    return cells(times, "ms", 1000)


def eight_at_a_time(
    callers: Mapping[str, Caller], tier: str, rounds: int
) -> tuple[list[str], list[str]]:
    rates: dict[str, list[float]] = {name: [] for name in callers}
    costs: dict[str, list[float]] = {name: [] for name in callers}
    for _ in track(range(rounds), description=f"{tier}, eight", transient=True):
        for name, caller in callers.items():
            rate, cost = caller.eight_at_a_time(tier, ROUND_COUNTS[tier])
            rates[name].append(rate)
            costs[name].append(cost)
    return cells(rates, "/s"), cells(costs, "ms", 1000)


def environment(address: str, *, shared_memory: bool) -> dict[str, str]:
    return {
        "SANGSANG_BACKEND": "triton_server",
        "SANGSANG_TRITON_SERVER_ADDRESS": address,
        "SANGSANG_TRITON_SERVER_SHARED_MEMORY": str(shared_memory).lower(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="model folder, built")
    parser.add_argument("--cache-dir", type=Path, default=Path.home() / ".cache" / "sangsang")
    parser.add_argument("--repeats", type=int, default=20, help="pictures of a tier, alone")
    parser.add_argument("--rounds", type=int, default=5, help="of eight at a time")
    parser.add_argument(
        "--shared-memory", action="store_true", help="tensors not over the wire, as on one machine"
    )
    arguments = parser.parse_args()
    console = Console(width=110)
    try:
        find_venv()
    except NoServer as exc:
        sys.exit(str(exc))
    folder = ModelFolder.open(arguments.model)
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        export_model(folder, place / "models", backend="python", cache=arguments.cache_dir)
        server = stack.enter_context(running_server(place / "models", place))
        remote = environment(server.address, shared_memory=arguments.shared_memory)
        callers: dict[str, Caller] = {}
        for name, stages in REMOTE.items():
            mesh = stack.enter_context(
                LocalMesh(
                    [arguments.model],
                    cache_dir=arguments.cache_dir,
                    environment={"SANGSANG_LOG_LEVEL": "error"},
                    stage_environment=dict.fromkeys(stages, remote),
                    log_dir=place / name,
                )
            )
            channel = stack.enter_context(grpc.insecure_channel(mesh.address))
            stub = imaging_grpc.ImageGenerationServiceStub(channel)
            ours = [child.pid for child in mesh.children.values()]
            theirs = server.process_ids if stages else []
            callers[name] = Caller(stub, folder.model_id, [*ours, *theirs])
        way = "shared memory" if arguments.shared_memory else "the wire"
        load = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        console.print(f"tensors by {way}; load of the machine {load}")
        table = Table("", *callers)
        for tier in TIERS:
            table.add_row(f"{tier}, alone", *one_at_a_time(callers, tier, arguments.repeats))
        for tier in TIERS:
            rates, costs = eight_at_a_time(callers, tier, arguments.rounds)
            table.add_row(f"{tier}, {CONCURRENCY} at a time", *rates)
            table.add_row(f"{tier}, CPU of one", *costs)
        memory = {name: [memory_mebibytes(one.process_ids)] for name, one in callers.items()}
        table.add_row("memory", *cells(memory, "MiB"))
        console.print(table)


if __name__ == "__main__":
    main()
