"""The shipped student: its pictures are diffusers' own, whoever shares its batch.

Run: pytest tests/mesh/test_pocket_tiers.py
"""

import asyncio

import numpy as np
from meshes import mesh_in_process
from reference import PROMPTS, decode, reference_pictures

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging

FREE = {"tier": imaging.TIER_FREE}
PRO = {"tier": imaging.TIER_PRO}
MAX_LEVELS = 2


def content(response) -> bytes:
    return response.images[0].data.content


async def test_a_free_picture_is_the_students_in_diffusers(pocket, cache_dir):
    prompts, seeds = PROMPTS[:4], [1, 2, 3, 4]
    settings = {"scheduler": "ddim", "step_count": 3, "guidance_scale": 1.0}
    size = {"width_px": 64, "height_px": 64}
    expected = reference_pictures(
        pocket, prompts, seeds, **settings, **size, adapter="adapters/student"
    )
    async with mesh_in_process([pocket], cache_dir) as mesh:
        calls = [
            mesh.generate(model_id="pocket", prompt=prompt, seed=seed, **FREE)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        responses = await asyncio.gather(*calls)
    settings = responses[0].stats.settings
    assert (settings.step_count, settings.guidance_scale, settings.weights) == (3, 1.0, "student")
    found = np.stack([decode(content(response)) for response in responses])
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= MAX_LEVELS


async def test_free_and_pro_pictures_are_those_they_are_alone(pocket, cache_dir):
    requests = [
        {"model_id": "pocket", "prompt": prompt, "seed": seed, **(FREE, PRO)[seed % 2]}
        for seed, prompt in enumerate(PROMPTS[:6])
    ]
    async with mesh_in_process([pocket], cache_dir) as mesh:
        alone = [content(await mesh.generate(**fields)) for fields in requests]
        together = await asyncio.gather(*(mesh.generate(**fields) for fields in requests))
        spans = mesh.spans.named("batch_step")
    assert [content(response) for response in together] == alone
    rows = {span.attributes["sangsang.batch.row_count"] for span in spans}
    # A guided request has two rows, so only one with a free request's single row is odd.
    assert any(count > 2 and count % 2 for count in rows)


async def test_the_tiers_cost_what_the_card_says(pocket, cache_dir):
    async with mesh_in_process([pocket], cache_dir) as mesh:
        response = await mesh.stub.ListModels(imaging.ListModelsRequest())
    [model] = response.models
    evaluations = {tier.tier: tier.unet_evaluation_count for tier in model.tiers}
    assert evaluations == {imaging.TIER_FREE: 3, imaging.TIER_PRO: 70}
