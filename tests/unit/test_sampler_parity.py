"""The whole update in f32 against diffusers' own, 35 steps on a real UNet with random weights.

Both sides evaluate the same network in the same batches, so what differs is the sampling alone:
the coefficients' rounding, the order of the sums, the noise.
"""

import asyncio
from functools import cache

import diffusers
import numpy as np
import pytest
import torch
from diffusion_fakes import fake_scheduler

from sangsang.services.diffusion.jobs import DenoiseJob, Finished
from sangsang.services.diffusion.step_loop import StepLoop
from sangsang.services.runtime.building.sampler_compiler import SamplerCompiler
from sangsang.services.runtime.building.schedules import RECIPES, make_scheduler, own_scheduler
from sangsang.services.runtime.models.sampler_tables import SamplerTables
from sangsang.services.runtime.noise import TorchGenerator
from sangsang.services.runtime.worker import EngineWorker

pytestmark = [pytest.mark.filterwarnings("ignore")]

STEP_COUNT = 35
SHAPE = (4, 8, 8)
SEED = 11
GUIDANCE = 5.0
_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
CONFIGS = {
    "epsilon": {"_class_name": "DDIMScheduler", "clip_sample": False, "steps_offset": 1, **_BETAS},
    "v_zero_snr": {
        "_class_name": "DDIMScheduler",
        "clip_sample": False,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        **_BETAS,
    },
}
NAMES = ("ddim", "ddpm", "dpmpp_2m", "euler", "euler_ancestral", "lcm")
# Largest difference of any latent; latents are a few units large. A level of 255 is about 0.01.
TOLERANCE = 5e-5


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before, verbosity = torch.get_num_threads(), diffusers.utils.logging.get_verbosity()
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    yield
    torch.set_num_threads(before)
    diffusers.utils.logging.set_verbosity(verbosity)


@cache
def network():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=4,
            norm_num_groups=8,
            cross_attention_dim=24,
        )
    return unet.eval()


class TorchUnet:
    name, backend, precision, digest = "unet", "torch", "f32", "0" * 64
    inputs = outputs = ()

    def infer(self, inputs):
        with torch.inference_mode():
            output = network()(*map(torch.from_numpy, inputs.values())).sample
        return {"out_sample": output.numpy()}

    def close(self): ...


def conditions():
    random = np.random.default_rng(1)
    negative, prompt = random.standard_normal((2, 16, 24)).astype(np.float32)
    picture = random.standard_normal(SHAPE).astype(np.float32)
    return negative, prompt, picture


def scheduler_of(config, name):
    return make_scheduler(own_scheduler(CONFIGS[config]), name, RECIPES[name])


@cache
def tables(config, name, folder):
    result = SamplerCompiler(name, scheduler_of(config, name), STEP_COUNT).run()
    path = folder / f"{config}-{name}.npz"
    SamplerTables(name, STEP_COUNT, {name: result.packed}).save(path)
    return SamplerTables.load(path)


@torch.inference_mode()
def by_diffusers(config, name, start_step):
    """What StableDiffusion(Img2Img)Pipeline does between the encoders and the decoder."""
    negative, prompt, picture = conditions()
    scheduler, generator = scheduler_of(config, name), torch.Generator("cpu").manual_seed(SEED)
    noise = torch.randn((1, *SHAPE), generator=generator)
    scheduler.set_timesteps(STEP_COUNT)
    timesteps = scheduler.timesteps
    if start_step is None:
        latents = noise * scheduler.init_noise_sigma
    else:
        timesteps = timesteps[start_step * scheduler.order :]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start_step * scheduler.order)
        latents = scheduler.add_noise(torch.from_numpy(picture)[None], noise, timesteps[:1])
    embeddings = torch.from_numpy(np.stack([negative, prompt]))
    takes_generator = "generator" in scheduler.step.__code__.co_varnames
    options = {"generator": generator} if takes_generator else {}
    for timestep in timesteps:
        scaled = scheduler.scale_model_input(torch.cat([latents] * 2), timestep)
        uncond, text = network()(scaled, timestep, embeddings).sample.chunk(2)
        output = uncond + GUIDANCE * (text - uncond)
        latents = scheduler.step(output, timestep, latents, **options).prev_sample
    return latents[0].numpy()


async def by_the_loop(table):
    negative, prompt, picture = conditions()
    job = DenoiseJob(
        table=table,
        noise=TorchGenerator(SEED).randn(SHAPE),
        initial_latents=picture if table.start_signal else None,
        contexts=(negative, prompt),
        guidance_scale=GUIDANCE,
        seed=SEED,
        noise_draw_count=1,
    )
    worker = EngineWorker("unet")
    loop = StepLoop(TorchUnet(), worker, scheduler=fake_scheduler(8))
    async with loop.submit(job) as events:
        last = [event async for event in events][-1]
    await loop.close()
    await asyncio.to_thread(worker.close)
    assert isinstance(last, Finished)
    return last.latents


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@pytest.mark.parametrize("start_step", [None, 14], ids=["text", "image"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("config", CONFIGS)
async def test_35_steps_stay_with_diffusers(config, name, start_step, folder):
    table = tables(config, name, folder).select(name, STEP_COUNT, start_step)
    ours = await by_the_loop(table)
    theirs = by_diffusers(config, name, start_step)
    difference = np.abs(ours - theirs).max()
    print(f"{config} {name} {start_step}: {difference:.1e} of {np.abs(theirs).max():.1f}")
    assert difference <= TOLERANCE * max(1, np.abs(theirs).max() / 4)
