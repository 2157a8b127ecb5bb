"""Neighbours never show: 32 mixed requests at once, each equal to itself alone.

Run: pytest tests/mesh/test_batching.py
"""

import asyncio
import random

import pytest
from meshes import every_stage, mesh_in_process
from reference import PROMPTS, SCHEDULERS, gradient_png

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging

SIZES = {"tiny": ((16, 16), (32, 16)), "pocket": ((64, 64), (96, 64))}


def mixed_requests(model_id: str, count: int) -> list[dict[str, object]]:
    choose = random.Random(5)
    requests = []
    for index in range(count):
        width_px, height_px = choose.choice(SIZES[model_id])
        fields: dict[str, object] = {
            "model_id": model_id,
            "prompt": choose.choice(PROMPTS),
            "negative_prompt": choose.choice(["", "green"]),
            "seed": index,
            "width_px": width_px,
            "height_px": height_px,
            "step_count": choose.choice([1, 2, 3, 5, 9]),
            "guidance_scale": choose.choice([0.0, 1.0, 3.0, 7.5]),
            "scheduler": choose.choice(list(SCHEDULERS)),
            "tier": choose.choice([imaging.TIER_FREE, imaging.TIER_PRO]),
        }
        if index % 5 == 0:
            fields["initial_image"] = {"content": gradient_png(), "strength": 1.0}
        requests.append(fields)
    return requests


def contents(responses) -> list[bytes]:
    return [response.images[0].data.content for response in responses]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("model", ["tiny", "pocket"])
async def test_thirty_two_mixed_requests_equal_themselves_alone(model, backend, request, cache_dir):
    folder = request.getfixturevalue(model)
    requests = mixed_requests(model, 32)
    overrides = every_stage(backend=backend)
    async with mesh_in_process([folder], cache_dir, overrides=overrides) as mesh:
        alone = [await mesh.generate(**fields) for fields in requests]
        together = await asyncio.gather(*(mesh.generate(**fields) for fields in requests))
        batches = [
            span.attributes["sangsang.batch.row_count"] for span in mesh.spans.named("batch_step")
        ]
    assert contents(together) == contents(alone)
    assert max(batches) > 2, "rows of several requests must really have shared a batch"


async def test_images_of_one_request_equal_those_of_their_seeds_alone(mesh):
    together = await mesh.generate(model_id="tiny", prompt="cat", seed=3, image_count=4)
    assert [image.index for image in together.images] == [0, 1, 2, 3]
    for image in together.images:
        alone = await mesh.generate(model_id="tiny", prompt="cat", seed=image.seed)
        assert alone.images[0].data.content == image.data.content
