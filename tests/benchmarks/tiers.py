"""What a picture of each tier costs through the mesh, one request at a time.

Tiers take turns, so that all meet the same machine. Prints the medians, the UNet evaluations, and
how many times as long the slowest tier takes. A second table asks for one picture of every tier at
the same time: rows of all tiers share the batches then.

Run: make bench-mesh
"""

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc
from sangsang.orchestrator.local_mesh import LocalMesh
from sangsang.services.runtime.models.folder import ModelFolder
from sangsang.services.runtime.models.manifest import Manifest, TierName

PROMPT = "a rocket on a yellow background"
TIERS = {"free": imaging.TIER_FREE, "pro": imaging.TIER_PRO}


def request_seconds(
    stub: imaging_grpc.ImageGenerationServiceStub, model_id: str, tier: TierName, seed: int
) -> float:
    spec = imaging.ImageSpec(model_id=model_id, prompt=PROMPT, seed=seed, tier=TIERS[tier])
    started_at = time.perf_counter()
    stub.GenerateImages(imaging.GenerateImagesRequest(spec=spec), timeout=60)
    return time.perf_counter() - started_at


def in_turns(
    stub: imaging_grpc.ImageGenerationServiceStub, manifest: Manifest, repeats: int
) -> dict[TierName, list[float]]:
    seconds: dict[TierName, list[float]] = {tier: [] for tier in manifest.tiers}
    for seed in track(range(repeats + 2), description="in turns", transient=True):
        for tier, times in seconds.items():
            times.append(request_seconds(stub, manifest.model_id, tier, seed))
    # The first two warm the mesh up.
    return {tier: times[2:] for tier, times in seconds.items()}


def at_once(
    stub: imaging_grpc.ImageGenerationServiceStub, manifest: Manifest, repeats: int
) -> dict[TierName, list[float]]:
    seconds: dict[TierName, list[float]] = {tier: [] for tier in manifest.tiers}
    with ThreadPoolExecutor(len(seconds)) as callers:
        for seed in track(range(repeats), description="at once", transient=True):
            calls = {
                tier: callers.submit(request_seconds, stub, manifest.model_id, tier, seed)
                for tier in seconds
            }
            for tier, call in calls.items():
                seconds[tier].append(call.result())
    return seconds


def table_of(title: str, manifest: Manifest, seconds: dict[TierName, list[float]]) -> Table:
    table = Table("tier", "steps", "weights", "UNet evaluations", "median", "against the slowest")
    table.title = title
    medians = {tier: statistics.median(times) * 1000 for tier, times in seconds.items()}
    slowest = max(medians.values())
    for name, tier in manifest.tiers.items():
        table.add_row(
            name,
            str(tier.step_count),
            tier.weights,
            str(tier.step_count * (2 if tier.guidance_scale > 1 else 1)),
            f"{medians[name]:.1f} ms",
            f"1/{slowest / medians[name]:.1f}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="model folder, built")
    parser.add_argument("--cache-dir", type=Path, default=Path.home() / ".cache" / "sangsang")
    parser.add_argument("--repeats", type=int, default=20, help="pictures of each tier")
    arguments = parser.parse_args()
    manifest = Manifest.read(ModelFolder.open(arguments.model))
    quiet = {"SANGSANG_LOG_LEVEL": "error"}
    with (
        LocalMesh([arguments.model], cache_dir=arguments.cache_dir, environment=quiet) as mesh,
        grpc.insecure_channel(mesh.address) as channel,
    ):
        stub = imaging_grpc.ImageGenerationServiceStub(channel)
        alone = in_turns(stub, manifest, arguments.repeats)
        together = at_once(stub, manifest, arguments.repeats)
    Console().print(table_of("one picture at a time", manifest, alone))
    Console().print(table_of("one of each tier at the same time", manifest, together))


if __name__ == "__main__":
    main()
