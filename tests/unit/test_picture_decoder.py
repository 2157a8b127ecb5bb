"""Latents to pixels: diffusers' numbers, and never a black picture in place of an error."""

import asyncio
import threading

import numpy as np
import pytest
import torch
from stage_fakes import FakeEngine, fake_folder, until

from sangsang.services.postprocessing.decoder import LatentDecoder, to_rgb
from sangsang.services.postprocessing.finisher import PictureFinisher, PictureRequest
from sangsang.services.runtime.errors import CorruptTensor
from sangsang.services.runtime.worker import EngineWorker


def enlarge(inputs):
    latents = inputs["latents"][:, :3]
    return {"image": latents.repeat(8, axis=2).repeat(8, axis=3)}


def decoder(engine=None, **folder):
    return LatentDecoder(fake_folder(**folder), engine or FakeEngine("vae_decoder", enlarge))


def latents(seed=0, height=4, width=6):
    return np.random.default_rng(seed).standard_normal((4, height, width)).astype(np.float32)


@pytest.fixture
def workers():
    engine, encoding = EngineWorker("engine"), EngineWorker("encoding", thread_count=2)
    yield {"engine_worker": engine, "encoding_worker": encoding}
    engine.close()
    encoding.close()


def test_pixels_are_those_of_diffusers():
    from diffusers.image_processor import VaeImageProcessor

    rng = np.random.default_rng(0)
    image = (rng.standard_normal((3, 40, 56)) * 0.8).astype(np.float32)
    # Values halfway between two levels, and far outside.
    image[0, 0] = (np.arange(56) + 0.5) / 127.5 - 1
    image[1, 0] = np.linspace(-50, 50, 56)
    processor = VaeImageProcessor(vae_scale_factor=8)
    (theirs,) = processor.postprocess(torch.from_numpy(image[None]), output_type="pil")
    np.testing.assert_array_equal(to_rgb(image), np.asarray(theirs))


@pytest.mark.parametrize(("scale", "shift"), [(0.18215, 0.0), (0.3611, 0.1159), (1.0, 0.0)])
def test_latents_are_unscaled_as_diffusers_does(scale, shift):
    engine = FakeEngine("vae_decoder", enlarge)
    decoder(engine, scaling_factor=scale, shift_factor=shift).decode(latents())
    expected = torch.from_numpy(latents()[None]) / scale + shift
    np.testing.assert_array_equal(engine.calls[0]["latents"], expected.numpy())


def test_the_whole_is_what_the_pipeline_returns():
    from diffusers import AutoencoderKL
    from diffusers.image_processor import VaeImageProcessor

    torch.manual_seed(1)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    ).eval()

    def compute(inputs):
        with torch.no_grad():
            return {"image": vae.decode(torch.from_numpy(inputs["latents"])).sample.numpy()}

    ours = decoder(FakeEngine("vae_decoder", compute), vae_scale=2).decode(latents())
    with torch.no_grad():
        image = vae.decode(torch.from_numpy(latents()[None]) / 0.18215, return_dict=False)[0]
    (theirs,) = VaeImageProcessor(vae_scale_factor=2).postprocess(image, output_type="pil")
    np.testing.assert_array_equal(ours, np.asarray(theirs))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_latents_that_are_not_finite_never_reach_the_engine(bad):
    engine = FakeEngine("vae_decoder", enlarge)
    values = latents()
    values[1, 2, 3] = bad
    with pytest.raises(CorruptTensor, match="1 of 96") as caught:
        decoder(engine).decode(values)
    assert caught.value.metadata["bad_value_count"] == "1"
    assert engine.calls == []


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_picture_that_is_not_finite_is_an_error(bad):
    def compute(inputs):
        image = enlarge(inputs)["image"]
        image[0, 1, 2, 3] = bad
        return {"image": image}

    with pytest.raises(CorruptTensor):
        decoder(FakeEngine("vae_decoder", compute)).decode(latents())


def test_overflow_on_the_way_is_an_error_too():
    with pytest.raises(CorruptTensor), np.errstate(all="ignore"):
        decoder(scaling_factor=1e-30).decode(latents() * np.float32(1e20))


async def test_a_corrupt_neighbour_changes_nothing(workers):
    finisher = PictureFinisher(decoder(), **workers)
    good = PictureRequest(latents(), "image/png", 0)
    broken = PictureRequest(np.full((4, 4, 6), np.nan, np.float32), "image/png", 0)
    alone = await finisher.finish(good)
    results = await asyncio.gather(
        *(finisher.finish(r) for r in (good, broken, good)), return_exceptions=True
    )
    assert isinstance(results[1], CorruptTensor)
    assert results[0].content == results[2].content == alone.content
    assert (alone.width_px, alone.height_px) == (48, 32)
    assert alone.compute_seconds > 0


async def test_a_cancelled_caller_whose_work_waits_costs_nothing(workers):
    gate = threading.Event()
    engine = FakeEngine("vae_decoder", enlarge, gate=gate)
    finisher = PictureFinisher(decoder(engine), **workers)
    request = PictureRequest(latents(), "image/png", 0)
    first = asyncio.create_task(finisher.finish(request))
    await asyncio.to_thread(engine.started.wait, 5)
    second = asyncio.create_task(finisher.finish(request))
    await asyncio.sleep(0.01)
    second.cancel()
    await asyncio.sleep(0.01)
    gate.set()
    assert (await first).content
    await finisher.finish(request)
    assert len(engine.calls) == 2


async def test_encoding_leaves_the_engine_and_the_loop_free(workers, monkeypatch):
    from sangsang.services.postprocessing import finisher as module

    gate, encoding = threading.Event(), threading.Event()
    encode = module.encode_picture

    def slow(*args, **kwargs):
        encoding.set()
        assert gate.wait(10)
        return encode(*args, **kwargs)

    monkeypatch.setattr(module, "encode_picture", slow)
    engine = FakeEngine("vae_decoder", enlarge)
    finisher = PictureFinisher(decoder(engine), **workers)
    first = asyncio.create_task(finisher.finish(PictureRequest(latents(), "image/png", 0)))
    await asyncio.to_thread(encoding.wait, 5)
    second = asyncio.create_task(finisher.finish(PictureRequest(latents(1), "image/png", 0)))
    await until(lambda: len(engine.calls) == 2)
    gate.set()
    assert (await first).content != (await second).content


async def test_warm_up_runs_the_engine_at_the_models_own_size(workers):
    engine = FakeEngine("vae_decoder", enlarge)
    subject = decoder(engine, default_width_px=64, default_height_px=48)
    await PictureFinisher(subject, **workers).warm_up()
    assert [call["latents"].shape for call in engine.calls] == [(1, 4, 6, 8)]
