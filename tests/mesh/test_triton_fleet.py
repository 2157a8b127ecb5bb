"""All engines of a mesh on real NVIDIA Triton Inference Servers, from exported repositories.

Run: make triton && pytest tests/mesh/test_triton_fleet.py
"""

import asyncio
import json
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager

import grpc
import pytest
from meshes import every_stage, mesh_in_process, until
from reference import PROMPTS, gradient_png
from triton_servers import require_venv, running_server

MODULES = ("text_encoder", "vae_encoder", "unet", "second_unet", "vae_decoder")
RUN = "from sangsang.orchestrator.command import main; main()"
# What requests ask for beside a prompt and a seed.
REQUESTS = {
    "pocket": (
        {"tier": 1},
        {"tier": 2, "step_count": 5},
        {"tier": 1, "width_px": 96, "height_px": 64, "scheduler": "euler_ancestral"},
        {"tier": 2, "step_count": 6, "image": 0.6},
    ),
    # Free is a second UNet, Pro an adapter; a further one is in other layers.
    "family": (
        {"tier": 1},
        {"tier": 2, "step_count": 5},
        {"tier": 2, "step_count": 4, "image": 0.8},
    ),
}
# Long enough that a server can die in the middle of it.
LONG = {"model_id": "pocket", "prompt": "a rocket", "seed": 5, "tier": 2, "step_count": 35}


def export(model, cache_dir, repository, *options):
    """What a user does."""
    arguments = ["export-triton", model, repository, "--cache-dir", cache_dir, *options]
    command = [sys.executable, "-c", RUN, *arguments, "--backend", "python"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "--model-repository=/models" in done.stdout


@pytest.fixture(scope="module")
def relatives(family, tmp_path_factory):
    """The family with its other sets of weights in use."""
    path = tmp_path_factory.mktemp("models") / "family"
    shutil.copytree(family, path)
    manifest = json.loads((path / "sangsang.json").read_text())
    manifest["tiers"]["free"]["weights"] = "second"
    manifest["tiers"]["pro"]["weights"] = "style"
    (path / "sangsang.json").write_text(json.dumps(manifest))
    return path


@pytest.fixture(scope="module")
def repository(pocket, relatives, cache_dir, tmp_path_factory):
    """The engines of two models."""
    require_venv()
    place = tmp_path_factory.mktemp("fleet") / "models"
    export(pocket, cache_dir, place)
    export(relatives, cache_dir, place, "--force")
    return place


@pytest.fixture(scope="module")
def server(repository, tmp_path_factory):
    with running_server(repository, tmp_path_factory.mktemp("one")) as running:
        yield running


def on(server, **fields):
    """Settings of a stage whose engines are on a server."""
    address = {"triton_server_address": server.address}
    return {"backend": "triton_server", **address, **fields}


@asynccontextmanager
async def mesh_on(server, models, cache_dir, **fields):
    overrides = every_stage(**on(server, **fields))
    async with mesh_in_process(models, cache_dir, overrides=overrides) as mesh:
        yield mesh


def spec(model_id, index, fields):
    made = {"model_id": model_id, "prompt": PROMPTS[index], "seed": index, **fields}
    if strength := made.pop("image", None):
        made["initial_image"] = {"content": gradient_png(), "strength": strength}
    return made


async def contents(mesh, specs):
    responses = await asyncio.gather(*(mesh.generate(**one) for one in specs))
    return [response.images[0].data.content for response in responses]


def engines_of(mesh):
    """The modules that have run, each with what ran it."""
    keys = "sangsang.engine.module", "sangsang.engine.backend"
    spans = [span.attributes for span in mesh.spans.ended]
    return {tuple(map(span.get, keys)) for span in spans if keys[0] in span}


@pytest.mark.parametrize("shared_memory", [False, True], ids=["wire", "shared_memory"])
async def test_the_pictures_have_the_bytes_of_engines_in_the_stages(
    pocket, relatives, cache_dir, server, shared_memory
):
    specs = [
        spec(model, 4 * place + index, fields)
        for place, (model, some) in enumerate(REQUESTS.items())
        for index, fields in enumerate(some)
    ]
    models = [pocket, relatives]
    async with mesh_in_process(models, cache_dir) as embedded:
        expected = await contents(embedded, specs)
    async with mesh_on(
        server, models, cache_dir, triton_server_shared_memory=shared_memory
    ) as mesh:
        assert await contents(mesh, specs) == expected
        assert engines_of(mesh) == {(module, "triton_server") for module in MODULES}
    assert len(set(expected)) == len(specs)


async def killed_amid(mesh, server, **fields):
    """A request that runs while its server is killed, and how many steps it had made."""
    before = len(mesh.spans.named("batch_step"))
    call = asyncio.ensure_future(mesh.generate(**fields))
    await until(lambda: len(mesh.spans.named("batch_step")) >= before + 3)
    await asyncio.to_thread(server.stop, kill=True)
    return call


async def test_a_server_that_dies_amid_a_request_is_unavailable_until_it_is_back(
    pocket, cache_dir, server
):
    async with mesh_on(server, [pocket], cache_dir) as mesh:
        [before] = await contents(mesh, [LONG])
        call = await killed_amid(mesh, server, **LONG)
        try:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            with pytest.raises(grpc.aio.AioRpcError) as again:
                await mesh.generate(**LONG)
        finally:
            await asyncio.to_thread(server.start)
        for error in (caught.value, again.value):
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert f"on {server.address}" in error.details()
        assert "pocket.unet" in caught.value.details()
        # No stage has been started again: it was never at fault.
        assert await answered(mesh, LONG) == before


async def answered(mesh, fields):
    """The picture, once the stages' connections, which wait between attempts, are back."""
    async with asyncio.timeout(60):
        while True:
            try:
                return (await contents(mesh, [fields]))[0]
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                await asyncio.sleep(0.2)


async def test_a_second_server_of_the_fleet_takes_over(
    pocket, cache_dir, server, repository, tmp_path
):
    """Two diffusion stages, each with its own server: one dies, and no caller sees it."""
    with running_server(repository, tmp_path) as other:
        overrides = {"diffusion": on(other)}
        further = [("diffusion", on(server))]
        async with mesh_in_process(
            [pocket], cache_dir, overrides=overrides, seconds=further
        ) as mesh:
            specs = [{**LONG, "seed": seed} for seed in range(4)]
            expected = await contents(mesh, specs)
            calls = [asyncio.ensure_future(mesh.generate(**one)) for one in specs]
            steps = len(mesh.spans.named("batch_step"))
            await until(lambda: len(mesh.spans.named("batch_step")) >= steps + 3)
            await asyncio.to_thread(other.stop, kill=True)
            responses = await asyncio.gather(*calls)
        assert [response.images[0].data.content for response in responses] == expected
