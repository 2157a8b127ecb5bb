"""What a caller and an operator see of a whole mesh. Run: pytest tests/mesh/test_serving.py"""

import subprocess
import sys
import textwrap

import numpy as np
from reference import decode

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging


async def test_a_stream_is_accepted_progress_image_summary(mesh):
    kinds, previews = [], 0
    async for event in mesh.stream(
        model_id="tiny", prompt="a cat", step_count=4, previews=2, seed=5
    ):
        kinds.append(event.WhichOneof("event"))
        if kinds[-1] == "progress" and event.progress.HasField("preview"):
            previews += 1
            assert decode(event.progress.preview.content).shape == (16, 16, 3)
        if kinds[-1] == "summary":
            summary = event.summary
    assert kinds[0] == "accepted"
    assert kinds[-2:] == ["image", "summary"]
    assert set(kinds[1:-2]) == {"progress"}
    assert previews >= 1
    assert summary.unet_evaluation_count == 8
    assert [stage.stage for stage in summary.stages] == [1, 2, 3, 4]
    assert 0 < summary.compute_seconds < summary.total_duration.ToTimedelta().total_seconds()


async def test_tier_tenant_and_request_reach_the_diffusion_stage(mesh):
    fields = {"model_id": "tiny", "prompt": "a cat", "step_count": 1}
    request_id = "5f0c6a52-8f5e-4a53-9f0f-6c9d4d1c7f0a"
    free = imaging.TIER_FREE
    await mesh.generate(**fields, tier=free, tenant="shop-1", request_id=request_id)
    await mesh.generate(**fields, tier=imaging.TIER_PRO)
    names = ("sangsang.tier", "sangsang.tenant")
    spans = mesh.spans.named("Denoise", server=True)
    seen = [tuple(span.attributes[name] for name in names) for span in spans]
    assert seen == [("free", "shop-1"), ("pro", "anonymous")]
    assert spans[0].attributes["sangsang.request.id"] == request_id


async def test_the_unary_answer_equals_the_stream(mesh):
    fields = {"model_id": "tiny", "prompt": "a cat", "step_count": 3, "seed": 5}
    unary = await mesh.generate(**fields)
    streamed = [event.image async for event in mesh.stream(**fields) if event.HasField("image")]
    assert [image.data.content for image in streamed] == [unary.images[0].data.content]
    assert unary.request_id


async def test_formats_have_their_bytes_and_the_same_picture(mesh):
    starts = {
        "image/png": b"\x89PNG",
        "image/jpeg": b"\xff\xd8",
        "image/webp": b"RIFF",
        "image/avif": b"\x00\x00\x00",
    }
    for mime_type, start in starts.items():
        response = await mesh.generate(
            model_id="tiny", prompt="a cat", step_count=2, seed=5, mime_type=mime_type
        )
        data = response.images[0].data
        assert data.mime_type == mime_type
        assert data.content.startswith(start)
        assert decode(data.content).shape == (data.height_px, data.width_px, 3)


async def test_a_long_prompt_is_cut_and_the_cut_is_told(mesh):
    response = await mesh.generate(model_id="tiny", prompt="cat " * 100, step_count=1)
    assert response.stats.dropped_token_count > 0


async def test_models_are_listed_with_what_may_be_asked(mesh):
    [model] = (await mesh.stub.ListModels(imaging.ListModelsRequest())).models
    assert model.model_id == "tiny"
    assert {"ddim", "euler", "euler_ancestral", "dpmpp_2m", "lcm", "ddpm"} <= set(model.schedulers)
    assert {tier.tier for tier in model.tiers} == {imaging.TIER_FREE, imaging.TIER_PRO}


async def test_one_trace_goes_through_every_service(mesh):
    await mesh.generate(model_id="tiny", prompt="a cat", step_count=2, seed=5)
    [root] = mesh.spans.named("ImageGenerationService/GenerateImages", server=True)
    trace_id = root.context.trace_id
    for method in ("EncodeText", "PrepareLatents", "Denoise", "DecodeLatents"):
        traces = {span.context.trace_id for span in mesh.spans.named(method)}
        assert traces == {trace_id}, method
    linked = {
        link.context.trace_id for span in mesh.spans.named("batch_step") for link in span.links
    }
    assert linked == {trace_id}
    text = str([dict(span.attributes) for span in mesh.spans.ended])
    assert "a cat" not in text, "prompts are never recorded"


async def test_every_execution_of_an_engine_shows_once(mesh):
    await mesh.generate(model_id="tiny", prompt="a cat", step_count=2, seed=5)
    stages = {}
    for span in mesh.spans.ended:
        if span.kind.name == "SERVER":
            stages[span.context.span_id] = span.name.rpartition("/")[2]
    executions = {
        (stages[span.parent.span_id], span.attributes["sangsang.engine.module"])
        for span in mesh.spans.named("engine_infer")
    }
    assert executions == {("EncodeText", "text_encoder"), ("DecodeLatents", "vae_decoder")}
    # The UNet runs for many calls at once: its executions are the batch steps, and only those.
    steps = mesh.spans.named("batch_step")
    assert len(steps) == 2
    assert {span.attributes["sangsang.engine.module"] for span in steps} == {"unet"}
    assert all(span.attributes["sangsang.compute_seconds"] > 0 for span in steps)


async def test_image_to_image_stays_near_its_picture(mesh):
    from reference import gradient_png

    fields = {"model_id": "tiny", "prompt": "a cat", "step_count": 10, "seed": 5}
    image = {"content": gradient_png(16, 16)}
    near = await mesh.generate(**fields, initial_image={**image, "strength": 0.1})
    far = await mesh.generate(**fields, initial_image={**image, "strength": 1.0})
    assert not np.array_equal(
        decode(near.images[0].data.content), decode(far.images[0].data.content)
    )
    assert near.stats.unet_evaluation_count < far.stats.unet_evaluation_count


def test_serving_on_the_cpu_imports_no_training_library(pocket, tmp_path):
    code = f"""
    import asyncio, sys
    sys.path.insert(0, "tests/support")
    from pathlib import Path
    from meshes import mesh_in_process

    async def main():
        async with mesh_in_process([Path({str(pocket)!r})], Path({str(tmp_path)!r})) as mesh:
            response = await mesh.generate(model_id="pocket", prompt="cat", step_count=2)
            assert response.images[0].data.content
        found = {{"torch", "diffusers", "transformers", "onnx"}} & set(sys.modules)
        assert not found, found

    asyncio.run(main())
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120, capture_output=True
    )
