"""The light stages over gRPC: what a picture needs, and what a caller may do wrong."""

import asyncio
import io
import threading

import grpc
import numpy as np
import pytest
import torch
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from hostile_pictures import encoded, noise_picture, png
from PIL import Image
from stage_fakes import until

from sangsang.services.runtime.errors import ModelNotReady, StageFailed, StageUnavailable
from sangsang.services.runtime.tensors import from_proto, to_proto
from sangsang.stages.v1alpha1 import postprocessing_service_pb2 as post
from sangsang.stages.v1alpha1 import postprocessing_service_pb2_grpc as post_grpc
from sangsang.stages.v1alpha1 import preprocessing_service_pb2 as pre
from sangsang.stages.v1alpha1 import preprocessing_service_pb2_grpc as pre_grpc
from sangsang.stages.v1alpha1 import text_encoding_service_pb2 as text
from sangsang.stages.v1alpha1 import text_encoding_service_pb2_grpc as text_grpc

MODEL = "tiny"
PICTURE = encoded(noise_picture(50, 40), "JPEG")
METHODS = {
    "text_encoding": "EncodeText",
    "preprocessing": "PrepareLatents",
    "postprocessing": "DecodeLatents",
}
# So that each call does its own work.
UNCACHED = {"text_encoding": {"embedding_cache_entries": 0}}


@pytest.fixture(scope="module")
def pipeline(random_model):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(random_model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Stub:
    """One method of each stage, with good requests."""

    def __init__(self, name, channel):
        self.name = name
        self.call = {
            "text_encoding": lambda: text_grpc.TextEncodingServiceStub(channel).EncodeText,
            "preprocessing": lambda: pre_grpc.PreprocessingServiceStub(channel).PrepareLatents,
            "postprocessing": lambda: post_grpc.PostprocessingServiceStub(channel).DecodeLatents,
        }[name]()

    def request(self, number=0, **fields):
        values = {
            "text_encoding": {"text": f"a cat {number}"},
            "preprocessing": {
                "width_px": 16,
                "height_px": 24,
                "seed": number,
                "initial_image": PICTURE,
            },
            "postprocessing": {"latents": latents(number), "mime_type": "image/png"},
        }[self.name]
        kind = {
            "text_encoding": text.EncodeTextRequest,
            "preprocessing": pre.PrepareLatentsRequest,
            "postprocessing": post.DecodeLatentsRequest,
        }[self.name]
        return kind(**{"model_id": MODEL, **values, **fields})

    async def refused(self, **fields):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(self.request(**fields))
        return caught.value


def latents(seed=0):
    return to_proto(np.random.default_rng(seed).standard_normal((4, 6, 8)).astype(np.float32))


def bad_fields(error):
    for detail in rpc_status.from_call(error).details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            return [v.field for v in bad.field_violations]
    return []


def payload(response):
    """A response without what its computation cost, which is never the same twice."""
    response.ClearField("usage")
    return response.SerializeToString(deterministic=True)


every_stage = pytest.mark.parametrize("name", ["text_encoding", "preprocessing", "postprocessing"])


async def test_text_is_encoded_as_the_pipeline_does(serve, pipeline):
    async with serve("text_encoding") as served:
        stub = Stub("text_encoding", served.channel)
        for prompt in ("", "a red cat", "고양이 🚀", "cat dog " * 40):
            response = await stub.call(stub.request(text=prompt))
            with torch.no_grad():
                expected, _ = pipeline.encode_prompt(prompt, "cpu", 1, False)
            ours = from_proto(response.embeddings, field="embeddings")
            np.testing.assert_allclose(ours, expected[0].numpy(), rtol=1e-5, atol=1e-5)
            assert 2 <= response.token_count <= 16
            assert (response.dropped_token_count > 0) == (len(prompt) > 100)
            usage = response.usage
            assert (usage.engine, usage.precision, usage.evaluation_count) == ("torch", "f32", 1)
            assert usage.compute_seconds > 0
            assert usage.queue_seconds >= 0


async def test_a_known_text_costs_nothing(serve):
    async with serve("text_encoding") as served:
        stub = Stub("text_encoding", served.channel)
        first, again = [await stub.call(stub.request()) for _ in range(2)]
        assert (first.cache_hit, again.cache_hit) == (False, True)
        assert again.usage.compute_seconds == again.usage.evaluation_count == 0
        assert again.embeddings == first.embeddings


async def test_latents_are_prepared_as_the_pipeline_does(serve, pipeline):
    async with serve("preprocessing") as served:
        stub = Stub("preprocessing", served.channel)
        plain = await stub.call(stub.request(7, initial_image=b""))
        generator = torch.Generator("cpu").manual_seed(7)
        expected = torch.randn((1, 4, 12, 8), generator=generator)[0].numpy()
        np.testing.assert_allclose(from_proto(plain.noise, field="n"), expected, atol=5e-7)
        assert not plain.HasField("initial_latents")
        assert (plain.noise_draw_count, plain.usage.evaluation_count) == (1, 0)

        started = await stub.call(stub.request(7))
        image = pipeline.image_processor.preprocess(
            Image.open(io.BytesIO(PICTURE)), height=24, width=16
        )
        generator = torch.Generator("cpu").manual_seed(7)
        with torch.no_grad():
            sample = pipeline.vae.encode(image).latent_dist.sample(generator)
        expected = (sample * pipeline.vae.config.scaling_factor)[0].numpy()
        ours = from_proto(started.initial_latents, field="l")
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
        expected = torch.randn((1, 4, 12, 8), generator=generator)[0].numpy()
        np.testing.assert_allclose(from_proto(started.noise, field="n"), expected, atol=5e-7)
        assert (started.noise_draw_count, started.usage.evaluation_count) == (2, 1)


@pytest.mark.parametrize("mime_type", ["image/png", "image/jpeg", "image/webp", "image/avif"])
async def test_latents_are_decoded_as_the_pipeline_does(serve, pipeline, mime_type):
    async with serve("postprocessing") as served:
        stub = Stub("postprocessing", served.channel)
        response = await stub.call(stub.request(mime_type=mime_type, quality=100))
    values = torch.from_numpy(from_proto(latents(), field="l").copy())[None]
    with torch.no_grad():
        image = pipeline.vae.decode(values / pipeline.vae.config.scaling_factor).sample
    (expected,) = pipeline.image_processor.postprocess(image)
    assert (response.width_px, response.height_px) == expected.size == (16, 12)
    assert response.mime_type == mime_type
    ours = np.asarray(Image.open(io.BytesIO(response.content)))
    if mime_type == "image/png":
        difference = np.abs(ours.astype(int) - np.asarray(expected))
        assert difference.max() <= 1


@every_stage
async def test_an_unknown_model_is_not_found(serve, name):
    async with serve(name) as served:
        stub = Stub(name, served.channel)
        for model_id in ("", "other", "../tiny", "x" * 10_000, "nul\0"):
            error = await stub.refused(model_id=model_id)
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert MODEL in error.details()
        await stub.call(stub.request())


BAD = {
    "text_encoding": [({"text": "x" * 1_000_000}, ["text"])],
    "preprocessing": [
        (
            {"width_px": 7, "height_px": 10**5, "seed": -1, "initial_image": b"text" * 10**6},
            ["width_px", "height_px", "seed", "initial_image"],
        ),
        ({"initial_image": PICTURE[:-30]}, ["initial_image"]),
        ({"initial_image": png(30000, 30000, b"")}, ["initial_image"]),
    ],
    "postprocessing": [
        ({"mime_type": "image/gif", "latents": None}, ["latents.data_type", "mime_type"]),
        ({"mime_type": "image/webp", "quality": 101}, ["quality"]),
    ],
}


@every_stage
async def test_bad_fields_are_all_named_and_the_next_good_call_is_answered(serve, name):
    async with serve(name) as served:
        stub = Stub(name, served.channel)
        for fields, expected in BAD[name]:
            error = await stub.refused(**fields)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert bad_fields(error) == expected
            await stub.call(stub.request())


@pytest.mark.parametrize("value", [np.nan, np.inf])
async def test_latents_that_are_not_finite_are_data_loss(serve, value):
    broken = np.zeros((4, 6, 8), np.float32)
    broken[0, 0, 0] = value
    async with serve("postprocessing") as served:
        stub = Stub("postprocessing", served.channel)
        error = await stub.refused(latents=to_proto(broken))
        assert error.code() is grpc.StatusCode.DATA_LOSS
        await stub.call(stub.request())


@every_stage
async def test_neighbours_change_nothing(serve, name):
    async with serve(name, **UNCACHED.get(name, {})) as served:
        stub = Stub(name, served.channel)
        alone = [payload(await stub.call(stub.request(number))) for number in range(4)]
        together = await asyncio.gather(*(stub.call(stub.request(n % 4)) for n in range(32)))
        for number, response in enumerate(together):
            response.ClearField("usage")
            if name == "text_encoding":
                response.cache_hit = False
            assert response.SerializeToString(deterministic=True) == alone[number % 4]


class Gate:
    """Holds a stage's engine until it is opened."""

    def __init__(self, engine):
        self.open = threading.Event()
        self.entered = threading.Event()
        self.count = 0
        self._infer = engine.infer
        engine.infer = self.infer

    def infer(self, inputs):
        self.count += 1
        self.entered.set()
        assert self.open.wait(20)
        return self._infer(inputs)


def engine_of(stage):
    (served,) = stage._served_engines().values()
    return served.engine


@every_stage
async def test_a_call_cancelled_while_it_waits_does_no_work(serve, spans, name):
    async with serve(name) as served:
        stub = Stub(name, served.channel)
        gate = Gate(engine_of(served.stage))
        first = asyncio.ensure_future(stub.call(stub.request(1)))
        await asyncio.to_thread(gate.entered.wait, 5)
        waiting = [stub.call(stub.request(number)) for number in (2, 3)]
        late = stub.call(stub.request(4), timeout=0.3)
        await asyncio.sleep(0.1)
        for call in waiting:
            call.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await late
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        # The server learns of both a moment after the caller.
        await until(lambda: len(spans.named(METHODS[name], server=True)) == 3)
        # And the thread's queue a turn of the loop after that.
        await asyncio.sleep(0.05)
        gate.open.set()
        await first
        await stub.call(stub.request(5))
        assert gate.count == 2


@every_stage
async def test_an_engine_that_fails_fails_one_call(serve, name):
    async with serve(name) as served:
        stub = Stub(name, served.channel)
        engine = engine_of(served.stage)
        infer = engine.infer

        def fail(inputs):
            engine.infer = infer
            raise StageFailed("the engine had enough")

        engine.infer = fail
        error = await stub.refused(number=1)
        assert error.code() is grpc.StatusCode.INTERNAL
        await stub.call(stub.request(1))


@every_stage
async def test_more_calls_than_may_wait_are_refused_at_once(serve, name):
    async with serve(name, max_pending_calls=2) as served:
        stub = Stub(name, served.channel)
        gate = Gate(engine_of(served.stage))
        calls = [asyncio.ensure_future(stub.call(stub.request(n))) for n in range(2)]
        await asyncio.to_thread(gate.entered.wait, 5)
        await asyncio.sleep(0.1)
        more = await asyncio.gather(
            *(stub.call(stub.request(n)) for n in range(2, 6)), return_exceptions=True
        )
        codes = {error.code() for error in more}
        assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        gate.open.set()
        await asyncio.gather(*calls)


@every_stage
async def test_health_and_spans(serve, spans, name):
    async with serve(name) as served:
        health = health_pb2_grpc.HealthStub(served.channel)
        service = health_pb2.HealthCheckRequest(service=served.stage.service_names[0])
        assert (await health.Check(service)).status == health_pb2.HealthCheckResponse.SERVING
        stub = Stub(name, served.channel)
        await stub.call(stub.request())
        (span,) = spans.named(METHODS[name], server=True)
        assert span.attributes["sangsang.model.id"] == MODEL
        assert span.attributes["sangsang.stage"] == name
        assert span.attributes["sangsang.compute_seconds"] > 0
        assert not any("a cat" in str(value) for value in span.attributes.values())


@every_stage
async def test_two_models_of_one_name_are_refused(serve, name, random_model):
    with pytest.raises(ModelNotReady, match="another model"):
        async with serve(name, models=(random_model, random_model)):
            pass


@every_stage
async def test_a_service_without_a_model_does_not_start(serve, name):
    with pytest.raises(ModelNotReady, match="SANGSANG_MODELS"):
        async with serve(name, models=()):
            pass


@every_stage
async def test_while_loading_callers_are_told_to_come_back(make_stage, name):
    stage = make_stage(name)
    with pytest.raises(StageUnavailable, match="still loading"):
        stage._find(MODEL)
    await stage.close()


@every_stage
async def test_the_engine_is_served_over_open_inference(serve, name):
    import tritonclient.grpc.aio as triton

    async with serve(name) as served:
        (engine,) = served.stage._served_engines()
        client = triton.InferenceServerClient(served.address)
        assert await client.is_model_ready(engine)
        assert engine.startswith(f"{MODEL}.")
        await client.close()
