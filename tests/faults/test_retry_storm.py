"""Clients whose gRPC retries by itself do not make an overload worse.

Run: pytest tests/faults/test_retry_storm.py
"""

import asyncio
import json

import grpc
import pytest
from meshes import every_stage, mesh_in_process, reason_of
from supervised_meshes import POCKET, spec_of, write_profile

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc
from sangsang.services.runtime.engines.timed_device import device_path

CALLERS, CALLS = 24, 5
# More eager than any client should be: it retries overloads too.
RETRIES = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.05s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ]
}


@pytest.fixture
async def full(tmp_path):
    """A mesh in this process where two requests may wait."""
    device = f"storm-{tmp_path.name}"
    profile = write_profile(tmp_path)
    overrides = every_stage(backend="timed", timed_profile=profile, timed_device=device)
    overrides["orchestrator"] = {"max_queued_requests": 2}
    async with mesh_in_process([POCKET], tmp_path / "cache", overrides=overrides) as mesh:
        yield mesh
    device_path(device).unlink()


async def test_an_overload_is_not_multiplied(full):
    outcomes = []
    address = f"127.0.0.1:{full.hosts['orchestrator'].port}"
    options = [("grpc.service_config", json.dumps(RETRIES)), ("grpc.enable_retries", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        stub = imaging_grpc.ImageGenerationServiceStub(channel)

        async def call_on(caller):
            for number in range(CALLS):
                request = imaging.GenerateImagesRequest(spec=spec_of(100 * caller + number))
                try:
                    await stub.GenerateImages(request, timeout=60)
                    outcomes.append("OK")
                except grpc.aio.AioRpcError as error:
                    outcomes.append(reason_of(error))

        await asyncio.gather(*(call_on(caller) for caller in range(CALLERS)))
    assert len(outcomes) == CALLERS * CALLS
    assert set(outcomes) == {"OK", "QUEUE_FULL"}
    assert outcomes.count("QUEUE_FULL") > CALLERS, "it was an overload"
    attempts = len(full.spans.named("ImageGenerationService/GenerateImages", server=True))
    assert attempts <= 1.2 * len(outcomes)
