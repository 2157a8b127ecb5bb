"""What a tenant may have, held for calls that stream and those that do not.

Run: pytest tests/mesh/test_tenant_limits.py
"""

import asyncio
import uuid

import grpc
import pytest
from meshes import mesh_in_process, reason_of, until

FIELDS = {"model_id": "tiny", "prompt": "a cat", "step_count": 2}
MANY_STEPS = {**FIELDS, "step_count": 24}


def limited(tiny, cache_dir, **limits):
    return mesh_in_process([tiny], cache_dir, overrides={"orchestrator": limits})


def call_of(mesh, *, stream, **fields):
    async def run():
        if stream:
            return [event async for event in mesh.stream(**fields)][-1].HasField("summary")
        return bool((await mesh.generate(**fields)).images)

    return run()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tenant_above_its_rate_is_refused_and_no_other(tiny, cache_dir, stream):
    async with limited(tiny, cache_dir, tenant_rate_per_s=0.01, tenant_burst_count=2) as mesh:
        for _ in range(2):
            assert await call_of(mesh, stream=stream, tenant="a", **FIELDS)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call_of(mesh, stream=stream, tenant="a", **FIELDS)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_of(refused.value) == "TENANT_RATE"
        assert await call_of(mesh, stream=stream, tenant="b", **FIELDS)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tenant_with_too_much_in_flight_is_refused(tiny, cache_dir, stream):
    async with limited(tiny, cache_dir, tenant_in_flight_count=1) as mesh:
        running = mesh.stream(tenant="a", **MANY_STEPS, image_count=4)
        await anext(aiter(running))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call_of(mesh, stream=stream, tenant="a", **FIELDS)
        assert reason_of(refused.value) == "TENANT_IN_FLIGHT"
        assert await call_of(mesh, stream=stream, tenant="b", **FIELDS)
        running.cancel()
        tenants = mesh.orchestrator._gateway._generator._tenants
        await until(lambda: not tenants._known["a"].started_s)
        # Its place is free again, and again after a call that ended well.
        for _ in range(2):
            assert await call_of(mesh, stream=stream, tenant="a", **FIELDS)


async def test_calls_that_join_a_request_are_one(tiny, cache_dir):
    async with limited(tiny, cache_dir, tenant_in_flight_count=1) as mesh:
        fields = {**MANY_STEPS, "tenant": "a", "request_id": str(uuid.uuid4())}
        responses = await asyncio.gather(*(mesh.generate(**fields) for _ in range(5)))
        assert len({response.images[0].data.content for response in responses}) == 1
