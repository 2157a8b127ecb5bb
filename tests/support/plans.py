"""Plans and results of requests, for tests that need no model."""

from dataclasses import replace

from sangsang.orchestrator.generation import GenerationResult
from sangsang.orchestrator.pipeline import Picture
from sangsang.orchestrator.plan import GenerationPlan
from sangsang.orchestrator.stages import EncodedImage, StageRun

REQUEST_ID = "5f0c6a52-8f5e-4a53-9f0f-6c9d4d1c7f0a"
PLAN = GenerationPlan(
    request_id=REQUEST_ID,
    model_id="tiny",
    prompt="a cat",
    negative_prompt="",
    width_px=16,
    height_px=16,
    tier="pro",
    scheduler="ddim",
    weights="base",
    step_count=4,
    guidance_scale=1.0,
    seeds=(1,),
    initial_image=b"",
    strength=1.0,
    mime_type="image/png",
    quality=90,
    embed_parameters=False,
    preview_interval_step_count=0,
    fingerprint="a spec",
)


def make_plan(**fields) -> GenerationPlan:
    return replace(PLAN, **fields)


def make_picture(index: int = 0, content: bytes = b"a picture") -> Picture:
    run = StageRun("postprocessing", 0.0, 0.0, 1, "fake", "f32")
    return Picture(index, index, EncodedImage(content, "image/png", 16, 16, run), 0, ())


def make_result(plan: GenerationPlan = PLAN, content: bytes = b"a picture") -> GenerationResult:
    pictures = tuple(make_picture(index, content) for index, _ in enumerate(plan.seeds))
    return GenerationResult(plan, pictures, 0.0, 0.0)
