"""Noise and latents against diffusers and torch: the same draws in the same order."""

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hostile_pictures import encoded, noise_picture
from stage_fakes import FakeEngine, fake_folder, until

from sangsang.services.preprocessing.latents import (
    LatentPreparer,
    LatentRequest,
    PreparationWorkers,
    sample_posterior,
)
from sangsang.services.preprocessing.pictures import PictureLimits, decode_picture
from sangsang.services.runtime.errors import CorruptTensor, InvalidRequest, StageFailed
from sangsang.services.runtime.worker import EngineWorker

# numpy's logarithm and cosine differ from torch's in the last bits.
NOISE_TOLERANCE = 5e-7
LIMITS = PictureLimits()
PICTURE = encoded(noise_picture(70, 50), "PNG")


@pytest.fixture
def workers():
    workers = PreparationWorkers(
        engine=EngineWorker("engine"),
        noise=EngineWorker("noise"),
        pictures=EngineWorker("pictures"),
    )
    yield workers
    workers.close()


@pytest.fixture(scope="module")
def vae():
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        scaling_factor=0.3,
    ).eval()


def vae_engine(vae):
    def compute(inputs):
        with torch.no_grad():
            posterior = vae.encode(torch.from_numpy(inputs["sample"])).latent_dist
        return {"moments": posterior.parameters.numpy()}

    return FakeEngine("vae_encoder", compute)


def constant_engine(**options):
    def compute(inputs):
        _, _, height, width = inputs["sample"].shape
        return {"moments": np.zeros((1, 8, height // 8, width // 8), np.float32)}

    return FakeEngine("vae_encoder", compute, **options)


def preparer(engine, workers, **folder):
    return LatentPreparer(fake_folder(**folder), engine, workers=workers, limits=LIMITS)


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**33 + 5, 2**63 - 1])
@pytest.mark.parametrize(("width_px", "height_px"), [(64, 64), (96, 32), (16, 80)])
async def test_text_to_image_starts_from_torchs_noise(workers, seed, width_px, height_px):
    engine = constant_engine()
    prepared = await preparer(engine, workers).prepare(LatentRequest(width_px, height_px, seed))
    shape = (1, 4, height_px // 8, width_px // 8)
    expected = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))[0].numpy()
    np.testing.assert_allclose(prepared.noise, expected, rtol=0, atol=NOISE_TOLERANCE)
    assert prepared.noise.dtype == np.float32
    assert prepared.initial_latents is None
    assert prepared.noise_draw_count == 1
    # Noise alone needs no engine.
    assert engine.calls == []


@pytest.mark.parametrize("seed", [3, 2**40])
@pytest.mark.parametrize(("width_px", "height_px"), [(64, 64), (96, 32)])
async def test_image_to_image_draws_as_diffusers_does(workers, vae, seed, width_px, height_px):
    from diffusers import StableDiffusionImg2ImgPipeline
    from diffusers.image_processor import VaeImageProcessor

    request = LatentRequest(width_px, height_px, seed, PICTURE)
    subject = preparer(vae_engine(vae), workers, scaling_factor=0.3)
    prepared = await subject.prepare(request)

    image = VaeImageProcessor(vae_scale_factor=8).preprocess(
        decode_picture(PICTURE, LIMITS), height=height_px, width=width_px
    )
    scheduler = SimpleNamespace(add_noise=lambda latents, noise, _: torch.cat([latents, noise]))
    with torch.no_grad():
        latents, noise = StableDiffusionImg2ImgPipeline.prepare_latents(
            SimpleNamespace(vae=vae, scheduler=scheduler),
            image,
            torch.tensor([500]),
            1,
            1,
            torch.float32,
            torch.device("cpu"),
            torch.Generator("cpu").manual_seed(seed),
        ).numpy()
    np.testing.assert_allclose(prepared.noise, noise, rtol=0, atol=NOISE_TOLERANCE)
    np.testing.assert_allclose(prepared.initial_latents, latents, rtol=1e-6, atol=1e-6)
    assert prepared.noise_draw_count == 2
    assert prepared.compute_seconds > 0


def test_the_posterior_is_sampled_as_diffusers_does():
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    rng = np.random.default_rng(0)
    # Variances far out of range as well: they are clipped before the exponential.
    moments = (rng.standard_normal((8, 5, 7)) * 40).astype(np.float32)
    generator = torch.Generator("cpu").manual_seed(5)
    theirs = DiagonalGaussianDistribution(torch.from_numpy(moments[None])).sample(generator)
    draw = torch.randn((1, 4, 5, 7), generator=torch.Generator("cpu").manual_seed(5))[0].numpy()
    ours = sample_posterior(moments, draw)
    np.testing.assert_allclose(ours, theirs[0].numpy(), rtol=1e-5)
    assert ours.dtype == np.float32


async def test_the_shift_is_taken_off_before_scaling(workers):
    subject = preparer(constant_engine(), workers, scaling_factor=2.0, shift_factor=0.5)
    plain = preparer(constant_engine(), workers, scaling_factor=1.0)
    request = LatentRequest(32, 32, 1, PICTURE)
    shifted = (await subject.prepare(request)).initial_latents
    unshifted = (await plain.prepare(request)).initial_latents
    np.testing.assert_allclose(shifted, (unshifted - 0.5) * 2, rtol=1e-6)


async def test_an_encoder_that_returns_nan_is_an_error(workers):
    moments = np.full((1, 8, 4, 4), np.nan, np.float32)
    subject = preparer(FakeEngine("vae_encoder", lambda _: {"moments": moments}), workers)
    with pytest.raises(CorruptTensor):
        await subject.prepare(LatentRequest(32, 32, 1, PICTURE))


async def test_a_bad_picture_fails_its_caller_only(workers):
    subject = preparer(constant_engine(), workers)
    good = LatentRequest(32, 32, 1, PICTURE)
    bad = LatentRequest(32, 32, 1, PICTURE[:-20])
    results = await asyncio.gather(
        *(subject.prepare(r) for r in (good, bad, good)), return_exceptions=True
    )
    assert isinstance(results[1], InvalidRequest)
    assert results[0].initial_latents.tobytes() == results[2].initial_latents.tobytes()


async def test_an_engine_that_fails_fails_its_caller_only(workers):
    engine = constant_engine()
    subject = preparer(engine, workers)
    compute, engine.compute = engine.compute, lambda _: (_ for _ in ()).throw(StageFailed("no"))
    with pytest.raises(StageFailed):
        await subject.prepare(LatentRequest(32, 32, 1, PICTURE))
    engine.compute = compute
    assert (await subject.prepare(LatentRequest(32, 32, 1, PICTURE))).noise_draw_count == 2


async def test_noise_never_waits_for_the_engine(workers):
    gate = threading.Event()
    engine = constant_engine(gate=gate)
    subject = preparer(engine, workers)
    busy = asyncio.create_task(subject.prepare(LatentRequest(32, 32, 1, PICTURE)))
    await asyncio.to_thread(engine.started.wait, 5)
    await asyncio.wait_for(subject.prepare(LatentRequest(32, 32, 1)), 5)
    assert not busy.done()
    gate.set()
    await busy


async def test_a_cancelled_caller_whose_work_waits_costs_nothing(workers):
    gate = threading.Event()
    engine = constant_engine(gate=gate)
    subject = preparer(engine, workers)
    first = asyncio.create_task(subject.prepare(LatentRequest(32, 32, 1, PICTURE)))
    await asyncio.to_thread(engine.started.wait, 5)
    second = asyncio.create_task(subject.prepare(LatentRequest(32, 32, 2, PICTURE)))
    await until(lambda: workers.engine.pending_count == 2)
    second.cancel()
    await asyncio.sleep(0.01)
    gate.set()
    assert (await first).noise_draw_count == 2
    await subject.prepare(LatentRequest(32, 32, 3, PICTURE))
    assert len(engine.calls) == 2


async def test_the_same_request_gives_the_same_bytes(workers, vae):
    subject = preparer(vae_engine(vae), workers)
    requests = [LatentRequest(64, 32, seed, PICTURE) for seed in (1, 2, 1, 3, 1)]
    results = await asyncio.gather(*map(subject.prepare, requests))
    latents = [r.initial_latents.tobytes() for r in results]
    assert latents[0] == latents[2] == latents[4]
    assert len(set(latents)) == 3


async def test_warm_up_runs_the_engine_at_the_models_own_size(workers):
    engine = constant_engine()
    await preparer(engine, workers, default_width_px=64, default_height_px=48).warm_up()
    assert [call["sample"].shape for call in engine.calls] == [(1, 3, 48, 64)]
