"""A mesh of timed engines: real services, wires and batches; nothing computed."""

import asyncio
import json
import os
from contextlib import asynccontextmanager

import pytest
from meshes import every_stage, mesh_in_process

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.services.runtime.engines.timed_device import device_path

MODULES = ("text_encoder", "vae_encoder", "unet", "vae_decoder")


@pytest.fixture
def device():
    name = f"mesh-{os.getpid()}"
    device_path(name).unlink(missing_ok=True)
    yield name
    device_path(name).unlink()


@asynccontextmanager
async def timed_mesh(pocket, tmp_path, device, unet_seconds):
    profile = tmp_path / "profile.json"
    seconds = {**{name: {"1": 0.001} for name in MODULES}, "unet": unet_seconds}
    fields = {"device": "a device", "precision": "f16", "seconds": seconds}
    profile.write_text(json.dumps({**fields, "rates": {"1": 1.0, "2": 0.6}}))
    overrides = every_stage(backend="timed", timed_profile=profile, timed_device=device)
    # An empty cache: nothing is built for this backend.
    async with mesh_in_process([pocket], tmp_path / "cache", overrides=overrides) as mesh:
        yield mesh


async def test_pictures_do_not_depend_on_their_neighbours(pocket, tmp_path, device):
    requests = [
        {"model_id": "pocket", "prompt": f"a cat {seed}", "seed": seed, "tier": tier}
        for seed in range(3)
        for tier in (imaging.TIER_FREE, imaging.TIER_PRO)
    ]
    async with timed_mesh(pocket, tmp_path, device, {"1": 0.001, "8": 0.002}) as mesh:
        together = await asyncio.gather(*(mesh.generate(**fields) for fields in requests))
        alone = [await mesh.generate(**fields) for fields in requests]
    contents = [response.images[0].data.content for response in together]
    assert contents == [response.images[0].data.content for response in alone]
    assert len(set(contents)) == len(contents)
    assert {stage.engine for r in alone for stage in r.stats.stages} >= {"timed"}


async def test_rows_of_several_requests_hold_the_device_once(pocket, tmp_path, device):
    async with timed_mesh(pocket, tmp_path, device, {"1": 0.02, "8": 0.02}) as mesh:
        fields = {"model_id": "pocket", "prompt": "a cat", "tier": imaging.TIER_FREE}
        await asyncio.gather(*(mesh.generate(seed=seed, **fields) for seed in range(8)))
        counts = mesh.stages["diffusion"]._models["pocket"].loop.counts
    # Each takes three steps; how many met is a matter of luck, but not that some did.
    assert counts.row_count == 24
    assert counts.step_count < 24
