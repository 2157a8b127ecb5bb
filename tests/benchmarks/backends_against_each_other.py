"""The same work on each engine backend, in turns on the same machine.

First the UNet alone: one evaluation of 1, 2 and 8 rows, of the UNet's own and with an adapter. Then
whole pictures through a mesh for each backend, all in this process. `triton_server` is the UNet on
a real NVIDIA Triton server on this machine, the other stages as they are by default; it is left
out, with the reason, where there is none (`make triton`). Prints medians of wall time and,
in brackets, how many times ONNX Runtime's it is.

Run: python -m tests.benchmarks.backends_against_each_other deploy/models/pocket
"""

import argparse
import asyncio
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import numpy as np
import structlog
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from meshes import Mesh, every_stage, mesh_in_process
from reference import decode
from triton_servers import NoServer, find_venv, triton_server

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.services.runtime.building.export import example_inputs
from sangsang.services.runtime.engines.engine import Engine
from sangsang.services.runtime.engines.loading import load_engine
from sangsang.services.runtime.engines.remote_server import RemoteServer
from sangsang.services.runtime.models.folder import ModelFolder

REFERENCE = "onnxruntime"
LOCAL = (REFERENCE, "openvino", "torch")
BATCHES = (1, 2, 8)
TIERS = {"free": imaging.TIER_FREE, "pro": imaging.TIER_PRO}
# Both are within 2 of diffusers in the tests.
MAX_LEVELS = 4


def cells(times: Mapping[str, list[float]]) -> list[str]:
    found = {name: statistics.median(values) for name, values in times.items()}
    return [f"{s * 1000:.1f} ({s / found[REFERENCE]:.2f})" for s in found.values()]


def in_turns(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for index in track(range(repeats + 2), transient=True):
        for name, run in runs.items():
            started_at = time.perf_counter()
            run()
            # The first two warm all sides up.
            if index >= 2:
                times[name].append(time.perf_counter() - started_at)
    return times


def measure_unet(folder: ModelFolder, engines: Mapping[str, Engine], repeats: int) -> Table:
    table = Table("one evaluation, ms", *engines)
    slots = [s.shape[1] for s in engines[REFERENCE].inputs if s.name == "adapter_scale"]
    side = folder.default_height_px // folder.size_multiple_px
    for rows in BATCHES:
        inputs = example_inputs(folder, "unet", rows, (side, side))
        kinds = {"own": inputs}
        if slots:
            scales = np.ones((rows, slots[0]), np.float32)
            kinds["adapted"] = {**inputs, "adapter_scale": scales}
        for kind, feeds in kinds.items():
            outputs = {n: e.infer(feeds)["out_sample"] for n, e in engines.items()}
            for name, output in outputs.items():
                # A comparison of speeds is worth nothing unless all compute the same.
                assert np.abs(output - outputs[REFERENCE]).max() < 1e-4, name
            runs = {name: lambda e=e, f=feeds: e.infer(f) for name, e in engines.items()}
            table.add_row(f"{rows} rows, {kind}", *cells(in_turns(runs, repeats)))
    return table


async def picture(mesh: Mesh, model_id: str, tier: int, seed: int) -> bytes:
    fields = {"model_id": model_id, "prompt": "a rocket", "seed": seed, "tier": tier}
    return (await mesh.generate(**fields)).images[0].data.content


async def measure_meshes(
    folder: ModelFolder,
    overrides: Mapping[str, Mapping[str, Mapping[str, object]]],
    cache_dir: Path,
    repeats: int,
) -> Table:
    table = Table("one picture, ms", *overrides)
    async with AsyncExitStack() as stack:
        meshes = {
            name: await stack.enter_async_context(
                mesh_in_process([folder.path], cache_dir, overrides=fields)
            )
            for name, fields in overrides.items()
        }
        for tier, number in TIERS.items():
            times: dict[str, list[float]] = {name: [] for name in meshes}
            for seed in range(repeats + 2):
                pictures: dict[str, bytes] = {}
                for name, mesh in meshes.items():
                    started_at = time.perf_counter()
                    pictures[name] = await picture(mesh, folder.model_id, number, seed)
                    if seed >= 2:
                        times[name].append(time.perf_counter() - started_at)
                levels = {n: decode(content).astype(int) for n, content in pictures.items()}
                for name, found in levels.items():
                    assert np.abs(found - levels[REFERENCE]).max() <= MAX_LEVELS, name
            table.add_row(tier, *cells(times))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="model folder, built")
    parser.add_argument("--cache-dir", type=Path, default=Path.home() / ".cache" / "sangsang")
    parser.add_argument("--repeats", type=int, default=20, help="of everything")
    arguments = parser.parse_args()
    quiet = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=quiet)
    folder, cache_dir = ModelFolder.open(arguments.model), arguments.cache_dir
    console = Console(width=110)
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        loads = Table("to load the UNet", "seconds")
        for name in LOCAL:
            started_at = time.perf_counter()
            engines[name] = load_engine(folder, "unet", backend=name, cache=cache_dir)
            loads.add_row(name, f"{time.perf_counter() - started_at:.2f}")
        overrides: dict[str, dict[str, dict[str, object]]] = {
            name: every_stage(backend=name) for name in LOCAL
        }
        try:
            find_venv()
        except NoServer as exc:
            console.print(f"no triton_server: {exc}")
        else:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            server = stack.enter_context(triton_server(folder, {"unet": {}}, cache_dir, place))
            options = {"backend": "triton_server", "triton_server_address": server.address}
            for name, shares in (("triton, wire", False), ("triton, shared memory", True)):
                remote = RemoteServer(server.address, shared_memory=shares)
                engines[name] = load_engine(folder, "unet", backend="triton_server", remote=remote)
                fields = {**options, "triton_server_shared_memory": shares}
                overrides[name] = {"diffusion": fields}
        console.print(loads)
        console.print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        console.print(measure_unet(folder, engines, arguments.repeats))
        for engine in engines.values():
            engine.close()
        meshes = measure_meshes(folder, overrides, cache_dir, arguments.repeats)
        console.print(asyncio.run(meshes))


if __name__ == "__main__":
    main()
