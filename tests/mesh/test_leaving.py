"""A call that is cancelled or runs out of time stops within a step and harms no neighbour.

Run: pytest tests/mesh/test_leaving.py
"""

import asyncio

import grpc
import pytest
from hostile_pictures import encoded, noise_picture
from meshes import until

# Sound as far as its header tells, so that the stage finds out and not the gateway.
CUT_OFF = encoded(noise_picture(), "JPEG")[:-300]
SLOW = {"model_id": "tiny", "prompt": "a cat", "scheduler": "ddim", "guidance_scale": 3.0}


def codes(mesh, method):
    return {span.attributes["rpc.response.status_code"] for span in mesh.spans.named(method)}


async def test_a_cancelled_call_stops_within_a_step(slowed):
    call = slowed.stream(**SLOW, step_count=24, seed=1)
    async for event in call:
        if event.WhichOneof("event") == "progress":
            break
    call.cancel()
    await until(lambda: slowed.counts().left_job_count == 1)
    assert slowed.counts().wasted_step_count <= 1
    done = slowed.counts().step_count
    assert done < 24
    await asyncio.sleep(0.2)
    assert slowed.counts().step_count <= done + 1
    await until(lambda: "CANCELLED" in codes(slowed, "StreamGenerateImages"))
    assert "CANCELLED" in codes(slowed, "Denoise")


async def test_a_deadline_that_passes_stops_the_work_and_is_told(slowed):
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await slowed.generate(**SLOW, step_count=24, seed=1, timeout=0.25)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    loop = slowed.counts()
    await until(lambda: loop.left_job_count + loop.failed_job_count == 1)
    assert loop.wasted_step_count <= 1
    assert loop.step_count < 24
    await until(lambda: "DEADLINE_EXCEEDED" in codes(slowed, "GenerateImages"))


async def test_neighbours_of_a_cancelled_call_are_untouched(slowed):
    neighbours = [{**SLOW, "step_count": 10, "seed": seed} for seed in (2, 3)]
    alone = [await slowed.generate(**fields) for fields in neighbours]
    call = slowed.stream(**SLOW, step_count=24, seed=1)
    running = [asyncio.create_task(slowed.generate(**fields)) for fields in neighbours]
    async for event in call:
        if event.WhichOneof("event") == "progress":
            break
    call.cancel()
    together = await asyncio.gather(*running)
    assert [r.images[0].data.content for r in together] == [r.images[0].data.content for r in alone]


async def test_one_image_of_a_request_that_fails_takes_its_siblings_along(mesh):
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await mesh.generate(**SLOW, step_count=5, image_count=3, initial_image={"content": CUT_OFF})
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await mesh.generate(**SLOW, step_count=2)).images
