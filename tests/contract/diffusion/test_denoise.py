"""`Denoise` on the wire: streams, previews, refusals, cancellation, deadlines, batching."""

import asyncio
import time
from collections import Counter

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from sangsang.services.diffusion.servicer import DiffusionStage
from sangsang.services.diffusion.settings import DiffusionSettings
from sangsang.services.runtime.errors import ModelNotReady, StageUnavailable
from sangsang.services.runtime.tensors import from_proto, to_proto


async def events_of(stub, request, **options):
    return [event async for event in stub.Denoise(request, **options)]


async def latents_of(stub, request):
    return (await events_of(stub, request))[-1].result.latents.data


async def failure_of(stub, request, **options):
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await events_of(stub, request, **options)
    return failed.value


async def bad_fields(stub, request):
    error = await failure_of(stub, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad = error_details_pb2.BadRequest()
    for detail in rpc_status.from_call(error).details:
        if detail.Is(bad.DESCRIPTOR):
            detail.Unpack(bad)
    return {violation.field: violation.description for violation in bad.field_violations}


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def test_steps_then_latents(serve, request_of):
    async with serve() as served:
        events = await events_of(served.stub, request_of())
    assert [event.WhichOneof("event") for event in events[:-1]] == ["progress"] * (len(events) - 1)
    last = events[-2].progress
    assert (last.completed_step_count, last.step_count) == (4, 4)
    assert not any(event.progress.HasField("preview") for event in events[:-1])
    result = events[-1].result
    assert from_proto(result.latents, field="latents", shape=(4, 8, 8)).dtype == np.float32
    assert result.usage.evaluation_count == 8
    assert result.usage.engine == "onnxruntime"
    assert result.usage.compute_seconds > 0
    assert result.mean_batch_row_count == 2
    (span,) = served.spans.named("Denoise", server=True)
    assert span.attributes["sangsang.diffusion.scheduler"] == "ddim"
    assert span.attributes["sangsang.compute_seconds"] == result.usage.compute_seconds


async def test_late_starts_run_fewer_steps(serve, request_of):
    async with serve() as served:
        request = request_of(picture=True, step_count=10, strength=0.35)
        events = await events_of(served.stub, request)
    assert events[-2].progress.step_count == 3
    assert events[-1].result.usage.evaluation_count == 6


async def test_previews_when_asked(serve, request_of):
    async with serve() as served:
        request = request_of(preview_interval_step_count=1, guidance_scale=1.0)
        events = await events_of(served.stub, request)
    previews = [e.progress.preview for e in events[:-1] if e.progress.HasField("preview")]
    picture = from_proto(previews[-1], field="preview", dtype="u1", shape=(8, 8, 3))
    assert picture.std() > 0


async def test_all_bad_fields_at_once(serve, request_of):
    request = request_of(
        picture=True,
        weights="lora",
        scheduler="nope",
        step_count=0,
        strength=1.5,
        guidance_scale=float("nan"),
        seed=-1,
        noise_draw_count=-1,
        preview_interval_step_count=-3,
        min_progress_interval_ms=60_001,
        finish_reserve_ms=-1,
        embeddings=to_proto(np.zeros((3, 9), np.float32)),
        noise=to_proto(np.zeros((3, 8, 8), np.float32)),
        initial_latents=to_proto(np.zeros((4, 8, 9), np.float16)),
    )
    async with serve() as served:
        fields = await bad_fields(served.stub, request)
        good = await events_of(served.stub, request_of())
    assert set(fields) == {
        "weights",
        "scheduler",
        "step_count",
        "strength",
        "guidance_scale",
        "seed",
        "noise_draw_count",
        "preview_interval_step_count",
        "min_progress_interval_ms",
        "finish_reserve_ms",
        "embeddings.shape",
        "noise.shape",
        "initial_latents.data_type",
    }
    assert "ddim" in fields["scheduler"]
    assert good[-1].HasField("result")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"step_count": 10**6}, "step_count"),
        ({"scheduler": ""}, "scheduler"),
        ({"scheduler": "nope"}, "scheduler"),
        ({"guidance_scale": float("inf")}, "guidance_scale"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"guidance_scale": 1e6}, "guidance_scale"),
        ({"negative_embeddings": None}, "negative_embeddings"),
        ({"negative_embeddings": to_proto(np.zeros((3, 24), "f4"))}, "negative_embeddings.shape"),
        ({"embeddings": None}, "embeddings.data_type"),
        ({"noise": None}, "noise.data_type"),
        ({"noise": to_proto(np.full((4, 8, 8), np.nan, np.float32))}, "noise.data"),
        ({"noise": to_proto(np.zeros((4, 7, 8), np.float32))}, "noise.shape"),
        ({"noise": to_proto(np.zeros((4, 4000, 2), np.float32))}, "noise.shape"),
        ({"noise_draw_count": 10**6}, "noise_draw_count"),
        ({"tier": "t" * 65}, "tier"),
        ({"tenant": "t" * 65}, "tenant"),
        ({"request_id": "t" * 65}, "request_id"),
        ({"picture": True, "strength": 0.0}, "strength"),
        ({"picture": True, "strength": float("nan")}, "strength"),
        ({"picture": True, "strength": 0.01}, "strength"),
    ],
)
async def test_one_bad_field(serve, request_of, changes, field):
    async with serve() as served:
        fields = await bad_fields(served.stub, request_of(**changes))
    assert set(fields) == {field}


async def test_unknown_models(serve, request_of):
    async with serve() as served:
        error = await failure_of(served.stub, request_of(model_id="nobody"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert "tiny" in error.details()


async def test_a_cancelled_call_leaves_within_one_step(serve, request_of):
    async with serve() as served:
        loop = served.loop()
        call = served.stub.Denoise(request_of(step_count=24))
        neighbour = asyncio.create_task(
            latents_of(served.stub, request_of(1, step_count=24, scheduler="dpmpp_2m"))
        )
        await call.read()
        call.cancel()
        await until(lambda: loop.counts.left_job_count == 1)
        assert loop.counts.wasted_step_count <= 1
        beside = await neighbour
        alone = await latents_of(served.stub, request_of(1, step_count=24, scheduler="dpmpp_2m"))
    assert beside == alone


async def test_a_deadline_ends_the_call_and_its_rows(serve, request_of):
    class SlowEngine:
        def __init__(self, engine):
            self._engine = engine

        def infer(self, inputs):
            time.sleep(0.05)
            return self._engine.infer(inputs)

        def __getattr__(self, name):
            return getattr(self._engine, name)

    async with serve() as served:
        loop = served.loop()
        loop._stepper._engine = SlowEngine(loop._stepper._engine)
        error = await failure_of(served.stub, request_of(step_count=24), timeout=0.3)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: not loop.job_count)
        assert loop.counts.step_count < 10
        assert loop.counts.wasted_step_count <= 1
        # The span is ended by the server when it notices, which may be after the client has.
        await until(lambda: served.spans.named("Denoise", server=True))
    (span,) = served.spans.named("Denoise", server=True)
    assert span.attributes["rpc.response.status_code"] == "DEADLINE_EXCEEDED"


async def test_32_mixed_calls_give_the_bytes_they_give_alone(serve, request_of):
    schedulers = ["ddim", "euler_ancestral", "dpmpp_2m", "lcm", "ddpm", "unipc", "heun", "euler"]
    requests = [
        request_of(
            index,
            scheduler=schedulers[index % len(schedulers)],
            step_count=1 + index * 5 % 13,
            guidance_scale=(1.0, 5.0, 7.5)[index % 3],
            height=(8, 12)[index % 5 == 0],
            picture=index % 4 == 3,
            strength=1.0,
            noise_draw_count=1,
        )
        for index in range(32)
    ]
    async with serve() as served:
        together = await asyncio.gather(*(latents_of(served.stub, r) for r in requests))
        counts = served.loop().counts
        assert counts.row_count / counts.step_count > 3
        alone = [await latents_of(served.stub, request) for request in requests]
    assert together == alone


async def test_tiers_share_the_steps_and_neither_stands_still(serve, request_of):
    """Three Pro calls in a flood of Free ones: four to one, counted in steps."""
    steps = []
    async with serve(observer=steps.append) as served:
        free = request_of(1, tier="free", guidance_scale=1.0, step_count=24)
        flood = [asyncio.create_task(latents_of(served.stub, free)) for _ in range(30)]
        await until(lambda: served.loop().row_count == 30)
        pro = [request_of(2 + i, tier="pro", step_count=24) for i in range(3)]
        beside = await asyncio.gather(*(latents_of(served.stub, request) for request in pro))
        in_flood = list(steps)
        await asyncio.gather(*flood)
        alone = [await latents_of(served.stub, request) for request in pro]
    assert beside == alone
    tiers = [Counter(job.tier for job in step.jobs) for step in in_flood]
    first = next(i for i, of in enumerate(tiers) if of["pro"])
    last = max(i for i, of in enumerate(tiers) if of["pro"])
    shared = tiers[first : last + 1]
    assert sum(of["pro"] for of in shared) == 3 * 24
    # No Pro job waits for more than a fifth of the steps, and some Free job is in most of them.
    assert len(shared) <= 24 / 0.8
    assert sum(of["free"] > 0 for of in shared) >= len(shared) / 2


async def test_calls_before_loading_are_told_to_come_back(model, cache_dir, request_of):
    stage = DiffusionStage(DiffusionSettings(models=(model,), cache_dir=cache_dir))
    with pytest.raises(StageUnavailable, match="loading"):
        await anext(stage.Denoise(request_of(), None))
    await stage.close()


async def test_models_without_tables_are_not_served(model, tmp_path):
    settings = DiffusionSettings(models=(model,), cache_dir=tmp_path, backend="torch")
    stage = DiffusionStage(settings)
    with pytest.raises(ModelNotReady, match="sangsang build"):
        await stage.load()
    await stage.close()
