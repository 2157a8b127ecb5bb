"""Whatever runs the engines, the picture is the one that diffusers makes.

Run: pytest tests/mesh/test_backends.py
"""

import asyncio
from contextlib import AsyncExitStack

import grpc
import numpy as np
import pytest
from meshes import STAGES, every_stage, mesh_in_process
from reference import PROMPTS, decode, gradient_png, reference_pictures
from triton_servers import triton_server

from sangsang.services.runtime.models.folder import ModelFolder

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


async def assert_pictures_of_diffusers(mesh, folder, cases):
    for index, (scheduler, guidance, (width, height), from_image) in enumerate(cases):
        prompts, seeds = PROMPTS[2 * index : 2 * index + 2], [11 + index, 12 + index]
        fields = {
            "scheduler": scheduler,
            "step_count": 7,
            "guidance_scale": guidance,
            "width_px": width,
            "height_px": height,
        }
        image = gradient_png() if from_image else b""
        expected = await asyncio.to_thread(
            reference_pictures,
            folder,
            prompts,
            seeds,
            **fields,
            initial_image=image,
            strength=0.6,
        )
        if from_image:
            fields["initial_image"] = {"content": image, "strength": 0.6}
        found = await pictures(mesh, folder, prompts, seeds, **fields)
        assert largest_difference(found, expected) <= MAX_LEVELS


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model", CASES)
async def test_a_mesh_on_each_backend_makes_the_pictures_of_diffusers(
    model, backend, request, cache_dir
):
    folder = request.getfixturevalue(model)
    overrides = every_stage(backend=backend)
    async with mesh_in_process([folder], cache_dir, overrides=overrides) as mesh:
        await assert_pictures_of_diffusers(mesh, folder, CASES[model])
        engines = {span.attributes["sangsang.engine.backend"] for span in step_spans(mesh)}
    assert engines == {backend}


@pytest.mark.parametrize("model", CASES)
async def test_the_stages_of_one_mesh_are_the_engines_of_another(model, request, cache_dir):
    """Over the Open Inference Protocol, which every stage serves; the second has no engine."""
    folder = request.getfixturevalue(model)
    async with mesh_in_process([folder], cache_dir) as first:
        overrides = {
            name: {
                "backend": "triton_server",
                "triton_server_address": f"127.0.0.1:{first.hosts[name].port}",
            }
            for name in STAGES
        }
        async with mesh_in_process([folder], cache_dir, overrides=overrides) as second:
            await assert_pictures_of_diffusers(second, folder, CASES[model])
            fields = {"model_id": folder.name, "prompt": "cat", "seed": 4, "tier": 1}
            contents = [
                (await mesh.generate(**fields)).images[0].data.content for mesh in (first, second)
            ]
        engines = {span.attributes["sangsang.engine.backend"] for span in step_spans(second)}
    assert engines == {"triton_server"}
    assert contents[0] == contents[1]


async def test_a_stage_whose_engines_went_away_says_unavailable(tiny, cache_dir):
    fields = {"model_id": "tiny", "prompt": "cat", "seed": 1, "step_count": 3}
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(mesh_in_process([tiny], cache_dir))
        remote = {
            "backend": "triton_server",
            "triton_server_address": f"127.0.0.1:{first.hosts['diffusion'].port}",
        }
        second = await stack.enter_async_context(
            mesh_in_process([tiny], cache_dir, overrides={"diffusion": remote})
        )
        await second.generate(**fields)
        await first.hosts["diffusion"].drain()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await second.generate(**fields)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "tiny.unet on 127.0.0.1" in caught.value.details()


@pytest.fixture(scope="module")
def real_server(pocket, cache_dir, tmp_path_factory):
    folder, place = ModelFolder.open(pocket), tmp_path_factory.mktemp("triton")
    with triton_server(folder, {"unet": {}}, cache_dir, place) as server:
        yield server


@pytest.mark.parametrize("shared_memory", [False, True], ids=["wire", "shared_memory"])
async def test_the_unet_on_a_real_triton_server(pocket, cache_dir, real_server, shared_memory):
    remote = {
        "backend": "triton_server",
        "triton_server_address": real_server.address,
        "triton_server_shared_memory": shared_memory,
    }
    async with mesh_in_process([pocket], cache_dir, overrides={"diffusion": remote}) as mesh:
        await assert_pictures_of_diffusers(mesh, pocket, CASES["pocket"])
        requests = [
            {"model_id": "pocket", "prompt": prompt, "seed": seed, "tier": 1 + seed % 2}
            for seed, prompt in enumerate(PROMPTS[:8])
        ]
        for fields in requests:
            fields["step_count"] = 3
        alone = [await mesh.generate(**fields) for fields in requests]
        together = await asyncio.gather(*(mesh.generate(**fields) for fields in requests))
        batches = [span.attributes["sangsang.batch.row_count"] for span in step_spans(mesh)]
        engines = {span.attributes["sangsang.engine.backend"] for span in step_spans(mesh)}
    assert engines == {"triton_server"}
    assert max(batches) > 2, "rows of several requests must really have shared a batch"
    one, other = (
        [response.images[0].data.content for response in responses]
        for responses in (alone, together)
    )
    assert one == other


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
