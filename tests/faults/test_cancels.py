"""A thousand calls that are cancelled at random moments leave nothing behind.

Run: pytest tests/faults/test_cancels.py
"""

import asyncio
import gc
import random
import statistics
import time
from pathlib import Path

import grpc
import pytest
from meshes import every_stage, mesh_in_process, until
from supervised_meshes import POCKET, spec_of, write_profile

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.services.runtime.engines.timed_device import device_path

CANCELS, AT_ONCE = 1000, 20
TIMES = {"1": 0.004, "8": 0.005}


@pytest.fixture
async def quick(tmp_path):
    """A mesh in this process whose pictures take no time to speak of."""
    device = f"cancels-{tmp_path.name}"
    profile = write_profile(tmp_path, TIMES)
    overrides = every_stage(backend="timed", timed_profile=profile, timed_device=device)
    async with mesh_in_process([POCKET], tmp_path / "cache", overrides=overrides) as mesh:
        yield mesh
    device_path(device).unlink()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def shared_files() -> set[str]:
    """What this process has mapped of memory that others may share."""
    maps = Path("/proc/self/maps").read_text()
    return {line.split(maxsplit=5)[5] for line in maps.splitlines() if "/dev/shm/" in line}


async def pictures(mesh) -> list[bytes]:
    """The same pictures, made side by side."""
    requests = [imaging.GenerateImagesRequest(spec=spec_of(seed)) for seed in range(AT_ONCE)]
    calls = (mesh.stub.GenerateImages(request, timeout=60) for request in requests)
    return [response.images[0].data.content for response in await asyncio.gather(*calls)]


async def usual_s(mesh) -> float:
    """How long a call takes when so many run."""

    async def seconds(seed: int) -> float:
        started_s = time.monotonic()
        await mesh.stub.GenerateImages(imaging.GenerateImagesRequest(spec=spec_of(seed)))
        return time.monotonic() - started_s

    return statistics.median(await asyncio.gather(*map(seconds, range(AT_ONCE))))


async def cancel_one(mesh, number: int, delay_s: float) -> str:
    """Starts a call and cancels it after a while, a streamed one after some events; its end."""
    spec = spec_of(number, image_count=1 + number % 2)
    if number % 3:
        call = mesh.stub.GenerateImages(imaging.GenerateImagesRequest(spec=spec))
        reading = asyncio.ensure_future(call)
        await asyncio.wait([reading], timeout=delay_s)
        call.cancel()
    else:
        call = mesh.stub.StreamGenerateImages(imaging.StreamGenerateImagesRequest(spec=spec))
        reading = asyncio.ensure_future(_read(call, 1 + number // 3 % 3))
    await asyncio.wait([reading])
    if reading.cancelled() or isinstance(reading.exception(), asyncio.CancelledError):
        return "CANCELLED"
    error = reading.exception()
    assert error is None or isinstance(error, grpc.aio.AioRpcError)
    return "OK" if error is None else error.code().name


async def _read(call, event_count: int) -> None:
    """Reads so many events, then cancels: however quick the machine is, it runs at that time."""
    async for _ in call:
        event_count -= 1
        if not event_count:
            call.cancel()


async def test_a_thousand_cancels_leak_nothing(quick):
    stage = quick.stages["diffusion"]
    loop = stage._models["pocket"].loop
    before = await pictures(quick)
    # They are cancelled in every stage.
    longest_s = await usual_s(quick)
    files, shared = open_files(), shared_files()
    moment = random.Random(1)

    async def worker(index: int) -> list[str]:
        numbers = range(index, CANCELS, AT_ONCE)
        delays = (moment.uniform(0.0, longest_s) for _ in numbers)
        return [await cancel_one(quick, n, delay) for n, delay in zip(numbers, delays, strict=True)]

    ends = [end for part in await asyncio.gather(*map(worker, range(AT_ONCE))) for end in part]
    assert len(ends) == CANCELS
    assert set(ends) <= {"OK", "CANCELLED"}
    assert ends.count("CANCELLED") > CANCELS / 4, "many were cancelled while they ran"
    await until(lambda: loop.job_count == 0)
    assert loop.counts.left_job_count > 20, "many were cancelled while they were denoised"
    assert loop.counts.wasted_step_count <= loop.counts.left_job_count
    gateway = quick.orchestrator._gateway
    await until(lambda: gateway._requests.running_count == 0)
    generator = gateway._generator
    scheduler, tenants = generator.dispatcher.scheduler, generator._tenants
    assert (scheduler.backlog.admitted, scheduler.backlog.waiting) == (0, 0)
    assert sum(scheduler.backlog.tier_seconds.values()) < 1e-6
    assert [list(device.lanes) for device in scheduler.devices] == [[]]
    assert not any(tenant.started_s for tenant in tenants._known.values())
    await until(lambda: all(s._worker.pending_count == 0 for s in quick.stages.values()))
    gc.collect()
    assert open_files() <= files + 2
    assert shared_files() == shared
    assert await pictures(quick) == before
