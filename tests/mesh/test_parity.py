"""Parity with diffusers is the law: same folder, prompt, seed, scheduler: same picture.

Each case takes some of the twenty prompts in turn; `SANGSANG_TEST_PARITY=full` takes all twenty.
Run: pytest tests/mesh/test_parity.py
"""

import asyncio
import itertools
import os

import numpy as np
import pytest
from meshes import mesh_in_process
from reference import PROMPTS, SCHEDULERS, decode, gradient_png, reference_pictures

MAX_LEVELS = 2
FULL = os.environ.get("SANGSANG_TEST_PARITY") == "full"
# (step count, prompts of a case); pocket's small steps allow more of them.
SIZES = {"pocket": ((64, 64), (96, 64)), "foreign": ((64, 64), (128, 64))}
CASES = list(itertools.product(SIZES, SCHEDULERS, (1.0, 5.0), (0, 1), ("text", "image")))


def prompts_of(case_index: int) -> tuple[list[str], list[int]]:
    if FULL:
        return list(PROMPTS), list(range(100, 100 + len(PROMPTS)))
    chosen = [(2 * case_index + i) % len(PROMPTS) for i in range(2)]
    return [PROMPTS[i] for i in chosen], [100 + i for i in chosen]


@pytest.mark.parametrize(
    "case_index",
    range(len(CASES)),
    ids=[f"{m}-{s}-guidance{g:g}-size{z}-from_{o}" for m, s, g, z, o in CASES],
)
async def test_the_picture_is_diffusers_picture(case_index, request, cache_dir):
    model, scheduler, guidance, size_index, origin = CASES[case_index]
    folder = request.getfixturevalue(model)
    width_px, height_px = SIZES[model][size_index]
    prompts, seeds = prompts_of(case_index)
    shared = {
        "scheduler": scheduler,
        "step_count": 7,
        "guidance_scale": guidance,
        "width_px": width_px,
        "height_px": height_px,
        "negative_prompt": "blue" if guidance > 1 else "",
    }
    image = gradient_png() if origin == "image" else b""
    expected = reference_pictures(
        folder, prompts, seeds, **shared, initial_image=image, strength=0.6
    )
    if image:
        shared["initial_image"] = {"content": image, "strength": 0.6}
    async with mesh_in_process([folder], cache_dir) as mesh:
        calls = [
            mesh.generate(model_id=folder.name, prompt=prompt, seed=seed, **shared)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        responses = await asyncio.gather(*calls)
    found = np.stack([decode(response.images[0].data.content) for response in responses])
    difference = np.abs(found.astype(int) - expected.astype(int))
    assert found.std() > 5, "a flat picture would agree with anything flat"
    assert difference.max() <= MAX_LEVELS


@pytest.mark.parametrize("scheduler", ["ddim", "dpmpp_2m", "euler_ancestral"])
async def test_thirty_five_steps_stay_within_the_bound(scheduler, pocket, cache_dir):
    shared = {"scheduler": scheduler, "step_count": 35, "guidance_scale": 5.0}
    size = {"width_px": 64, "height_px": 64}
    expected = reference_pictures(pocket, [PROMPTS[0]], [7], **shared, **size)
    async with mesh_in_process([pocket], cache_dir) as mesh:
        response = await mesh.generate(
            model_id="pocket", prompt=PROMPTS[0], seed=7, **shared, **size
        )
    found = decode(response.images[0].data.content)
    assert np.abs(found.astype(int) - expected[0].astype(int)).max() <= MAX_LEVELS
