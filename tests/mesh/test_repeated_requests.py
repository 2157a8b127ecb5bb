"""A call with the ID of a request that is known joins it or gets its result.

Run: pytest tests/mesh/test_repeated_requests.py
"""

import asyncio
import uuid

import grpc
import pytest
from meshes import reason_of, until

FIELDS = {"model_id": "tiny", "prompt": "a cat", "scheduler": "ddim", "guidance_scale": 3.0}
# Without a seed, so that running it twice would show.
LONG = {**FIELDS, "step_count": 20}


@pytest.fixture
def request_id():
    return str(uuid.uuid4())


def contents(response):
    return [image.data.content for image in response.images]


async def streamed(call):
    """The events of a stream, and its images' bytes."""
    events = [event async for event in call]
    kinds = [event.WhichOneof("event") for event in events]
    images = [event.image.data.content for event in events if event.HasField("image")]
    return kinds, images


async def progress_of(call):
    """Reads a stream up to its first step, and returns that."""
    async for event in call:
        if event.HasField("progress"):
            return event.progress
    raise AssertionError("it ended without a step")


async def test_calls_of_one_id_are_one_request_streamed_or_not(slowed, request_id):
    first = slowed.stream(**LONG, image_count=2, request_id=request_id)
    await progress_of(first)
    unary = asyncio.create_task(slowed.generate(**LONG, image_count=2, request_id=request_id))
    joined = slowed.stream(**LONG, image_count=2, request_id=request_id)
    assert (await anext(aiter(joined))).accepted.request_id == request_id
    kinds, images = await streamed(joined)
    assert kinds[0] == "progress", "it begins with where the request is"
    assert kinds[-3:] == ["image", "image", "summary"] or kinds[-1] == "summary"
    assert kinds.count("image") == 2
    assert sorted(images) == sorted(contents(await unary))
    assert sorted((await streamed(first))[1]) == sorted(images)
    assert slowed.counts().finished_job_count == 2


async def test_a_joined_stream_does_not_begin_anew(slowed, request_id):
    first = slowed.stream(**LONG, request_id=request_id)
    running = asyncio.create_task(streamed(first))
    await until(lambda: slowed.counts().step_count >= 8)
    step = await progress_of(slowed.stream(**LONG, request_id=request_id))
    assert step.completed_step_count >= 7
    await running


@pytest.mark.parametrize("again", ["unary", "stream"])
async def test_a_result_is_kept_for_who_comes_again(mesh, request_id, again):
    first = await mesh.generate(**FIELDS, step_count=2, image_count=2, request_id=request_id)
    steps = mesh.counts().step_count
    if again == "unary":
        second = await mesh.generate(**FIELDS, step_count=2, image_count=2, request_id=request_id)
        assert contents(second) == contents(first)
        assert second.request_id == request_id
    else:
        call = mesh.stream(**FIELDS, step_count=2, image_count=2, request_id=request_id)
        assert await streamed(call) == (["accepted", "image", "image", "summary"], contents(first))
    assert mesh.counts().step_count == steps


async def test_another_spec_and_another_tenant(mesh, request_id):
    first = await mesh.generate(**FIELDS, step_count=2, request_id=request_id, tenant="a")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await mesh.generate(**FIELDS, step_count=3, request_id=request_id, tenant="a")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(refused.value) == "REQUEST_ID_REUSED"
    other = await mesh.generate(**FIELDS, step_count=2, request_id=request_id, tenant="b")
    assert contents(other) != contents(first), "its seed is its own"


async def test_the_last_caller_to_leave_stops_the_request(slowed, request_id):
    calls = [slowed.stream(**LONG, request_id=request_id) for _ in range(2)]
    for call in calls:
        await progress_of(call)
    calls[0].cancel()
    before = slowed.counts().step_count
    await until(lambda: slowed.counts().step_count >= before + 2)
    assert slowed.counts().left_job_count == 0
    calls[1].cancel()
    await until(lambda: slowed.counts().left_job_count == 1)
    assert slowed.counts().step_count < LONG["step_count"]
    # What was stopped is not kept: this one runs anew.
    response = await slowed.generate(**LONG, request_id=request_id)
    assert response.images
    assert slowed.counts().finished_job_count == 1


async def test_a_patient_caller_outlives_one_whose_time_is_up(slowed, request_id):
    # Twenty steps take more than 0.4 s.
    hasty = asyncio.create_task(slowed.generate(**LONG, request_id=request_id, timeout=0.38))
    await until(lambda: slowed.counts().step_count >= 2)
    patient = asyncio.create_task(slowed.generate(**LONG, request_id=request_id))
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await hasty
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await patient).images


async def test_a_failed_request_runs_anew(mesh, request_id):
    [model] = mesh.stages["diffusion"]._models.values()
    infer = model.engine.infer
    model.engine.infer = lambda inputs: 1 / 0
    with pytest.raises(grpc.aio.AioRpcError):
        await mesh.generate(**FIELDS, step_count=2, request_id=request_id)
    model.engine.infer = infer
    assert (await mesh.generate(**FIELDS, step_count=2, request_id=request_id)).images
