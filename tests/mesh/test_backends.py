"""Whatever runs the engines, the picture is the one that diffusers makes.

Run: pytest tests/mesh/test_backends.py
"""

import asyncio

import numpy as np
import pytest
from meshes import every_stage, mesh_in_process
from reference import PROMPTS, decode, gradient_png, reference_pictures

MAX_LEVELS = 2
BACKENDS = ("onnxruntime", "openvino", "torch")
# Of each model: scheduler, guidance, size, and whether it starts from a picture.
CASES = {
    "pocket": (
        ("ddim", 5.0, (64, 64), False),
        ("euler_ancestral", 1.0, (96, 64), False),
        ("dpmpp_2m", 5.0, (96, 64), True),
    ),
    "foreign": (("ddim", 5.0, (128, 64), False), ("lcm", 1.0, (64, 64), True)),
}


async def pictures(mesh, folder, prompts, seeds, **fields):
    calls = [
        mesh.generate(model_id=folder.name, prompt=prompt, seed=seed, **fields)
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    responses = await asyncio.gather(*calls)
    return np.stack([decode(response.images[0].data.content) for response in responses])


def largest_difference(found, expected):
    assert found.std() > 5, "a flat picture would agree with anything flat"
    return np.abs(found.astype(int) - expected.astype(int)).max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model", CASES)
async def test_a_mesh_on_each_backend_makes_the_pictures_of_diffusers(
    model, backend, request, cache_dir
):
    folder = request.getfixturevalue(model)
    overrides = every_stage(backend=backend)
    async with mesh_in_process([folder], cache_dir, overrides=overrides) as mesh:
        for index, (scheduler, guidance, (width, height), from_image) in enumerate(CASES[model]):
            prompts, seeds = PROMPTS[2 * index : 2 * index + 2], [11 + index, 12 + index]
            fields = {
                "scheduler": scheduler,
                "step_count": 7,
                "guidance_scale": guidance,
                "width_px": width,
                "height_px": height,
            }
            image = gradient_png() if from_image else b""
            expected = reference_pictures(
                folder, prompts, seeds, **fields, initial_image=image, strength=0.6
            )
            if from_image:
                fields["initial_image"] = {"content": image, "strength": 0.6}
            found = await pictures(mesh, folder, prompts, seeds, **fields)
            assert largest_difference(found, expected) <= MAX_LEVELS
        engines = {span.attributes["sangsang.engine.backend"] for span in step_spans(mesh)}
    assert engines == {backend}


def step_spans(mesh):
    return mesh.spans.named("batch_step")


@pytest.mark.parametrize("backend", BACKENDS)
async def test_thirty_five_steps_of_each_backend_stay_within_the_bound(backend, pocket, cache_dir):
    fields = {"scheduler": "ddim", "step_count": 35, "guidance_scale": 5.0}
    size = {"width_px": 64, "height_px": 64}
    expected = reference_pictures(pocket, [PROMPTS[0]], [7], **fields, **size)
    overrides = every_stage(backend=backend)
    async with mesh_in_process([pocket], cache_dir, overrides=overrides) as mesh:
        found = await pictures(mesh, pocket, [PROMPTS[0]], [7], **fields, **size)
    assert largest_difference(found, expected) <= MAX_LEVELS
