"""Sets of weights: adapters share batches with the UNet that they are of, a second UNet does not.

Run: pytest tests/mesh/test_weights.py
"""

import asyncio
import json
import shutil

import numpy as np
import pytest
from meshes import mesh_in_process, slow_down
from reference import PROMPTS, decode, reference_pictures

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging

MAX_LEVELS = 2
FREE = {"tier": imaging.TIER_FREE}
PRO = {"tier": imaging.TIER_PRO}
# The folder inside the model that diffusers loads for each set of weights.
SETS = {
    "base": {},
    "student": {"adapter": "adapters/student"},
    "style": {"adapter": "adapters/style"},
    "second": {"unet": "second_unet"},
}


def content(response) -> bytes:
    return response.images[0].data.content


def rows_of_batches(mesh) -> list[int]:
    spans = mesh.spans.named("batch_step")
    return [span.attributes["sangsang.batch.row_count"] for span in spans]


@pytest.fixture
def meaning(family, tmp_path):
    """The family under another name, its free tier meaning another set of weights."""

    def meaning(weights):
        path = shutil.copytree(family, tmp_path / f"family_{weights}")
        manifest = json.loads((path / "sangsang.json").read_text())
        manifest["tiers"]["free"]["weights"] = weights
        (path / "sangsang.json").write_text(json.dumps(manifest))
        return path

    return meaning


async def difference(folder, cache_dir, weights, size_px, **settings):
    """Largest difference from diffusers, in levels of 255, of two pictures in one batch."""
    prompts, seeds = PROMPTS[:2], [7, 8]
    size = {"width_px": size_px, "height_px": size_px}
    expected = reference_pictures(folder, prompts, seeds, **settings, **size, **SETS[weights])
    async with mesh_in_process([folder], cache_dir) as mesh:
        calls = [
            mesh.generate(model_id=folder.name, prompt=p, seed=s, **settings, **size, **FREE)
            for p, s in zip(prompts, seeds, strict=True)
        ]
        responses = await asyncio.gather(*calls)
    assert {response.stats.settings.weights for response in responses} == {weights}
    found = np.stack([decode(content(response)) for response in responses])
    assert found.std() > 5, "a flat picture would agree with anything flat"
    return np.abs(found.astype(int) - expected.astype(int)).max()


@pytest.mark.parametrize(("scheduler", "guidance"), [("ddim", 1.0), ("dpmpp_2m", 4.0)])
@pytest.mark.parametrize("weights", SETS)
async def test_the_picture_is_diffusers_picture(meaning, cache_dir, weights, scheduler, guidance):
    settings = {"scheduler": scheduler, "step_count": 6, "guidance_scale": guidance}
    assert await difference(meaning(weights), cache_dir, weights, 16, **settings) <= MAX_LEVELS


@pytest.mark.parametrize(("scheduler", "guidance"), [("ddim", 1.0), ("euler_ancestral", 4.0)])
async def test_so_it_is_in_the_shape_of_stable_diffusion(foreign, cache_dir, scheduler, guidance):
    settings = {"scheduler": scheduler, "step_count": 5, "guidance_scale": guidance}
    assert await difference(foreign, cache_dir, "student", 64, **settings) <= MAX_LEVELS


async def test_free_and_pro_share_a_batch_and_do_not_show_in_each_other(family, cache_dir):
    pro = {"model_id": "family", "prompt": "cat", "seed": 1, "step_count": 35, **PRO}
    free = {"model_id": "family", "prompt": "a dog", "seed": 2, **FREE}
    async with mesh_in_process([family], cache_dir) as mesh:
        # Long enough for a second request to arrive in the middle of a first; and a step with
        # more rows is seen to take hardly longer, so that they are to share.
        slow_down(mesh, 0.02)
        alone = [content(await mesh.generate(**fields)) for fields in (pro, free)]
        steps = len(rows_of_batches(mesh))
        call = asyncio.create_task(mesh.generate(**pro))
        async with asyncio.timeout(60):
            # The pro request is under way when the free one comes.
            while len(rows_of_batches(mesh)) < steps + 2:
                await asyncio.sleep(0.001)
        together = [content(await mesh.generate(**free)), content(await call)]
        shared = rows_of_batches(mesh)[steps:]
    assert together == alone[::-1]
    assert shared.count(3) == 3, "the free request's three rows ran beside the pro request's two"
    assert len(shared) == 35


async def test_mixed_requests_equal_themselves_alone(family, meaning, cache_dir):
    style = meaning("style")
    requests = [
        {
            "model_id": model.name,
            "prompt": PROMPTS[index],
            "seed": index,
            "step_count": 2 + index % 4,
            "guidance_scale": (1.0, 4.0)[index % 2],
            "scheduler": ("ddim", "euler_ancestral")[index % 3 == 0],
            **(FREE, PRO)[index // 2 % 2],
        }
        for index, model in enumerate([family, family, style] * 4)
    ]
    async with mesh_in_process([family, style], cache_dir) as mesh:
        alone = [content(await mesh.generate(**fields)) for fields in requests]
        together = await asyncio.gather(*(mesh.generate(**fields) for fields in requests))
        batches = rows_of_batches(mesh)
    assert [content(response) for response in together] == alone
    assert max(batches) > 3


async def test_an_adapter_changes_the_picture(family, cache_dir):
    fields = {"model_id": "family", "prompt": "cat", "seed": 1, "step_count": 3}
    async with mesh_in_process([family], cache_dir) as mesh:
        base, student = [
            await mesh.generate(**fields, guidance_scale=1.0, **tier) for tier in (PRO, FREE)
        ]
    assert np.abs(decode(content(base)).astype(int) - decode(content(student))).max() > 10


async def test_models_are_listed_with_their_weights_and_costs(family, cache_dir):
    async with mesh_in_process([family], cache_dir) as mesh:
        response = await mesh.stub.ListModels(imaging.ListModelsRequest())
    [model] = response.models
    assert list(model.weights) == ["base", "student", "style", "second"]
    tiers = {tier.tier: tier for tier in model.tiers}
    free, pro = tiers[imaging.TIER_FREE], tiers[imaging.TIER_PRO]
    assert (free.weights, free.unet_evaluation_count) == ("student", 3)
    assert (pro.weights, pro.unet_evaluation_count) == ("base", 70)


async def test_every_unet_is_served_by_name(family, cache_dir):
    async with mesh_in_process([family], cache_dir) as mesh:
        stage = mesh.stages["diffusion"]
        engines = stage._served_engines()
    assert set(engines) == {"family.unet", "family.second_unet"}
    scales = [s for s in engines["family.unet"].engine.inputs if s.name == "adapter_scale"]
    assert [(s.shape, s.optional) for s in scales] == [((None, 2), True)]
    assert all(s.name != "adapter_scale" for s in engines["family.second_unet"].engine.inputs)
