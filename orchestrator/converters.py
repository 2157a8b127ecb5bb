"""Results to messages of the public API."""

import io
import math
from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration
from PIL import Image

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.stages.v1alpha1 import tensor_pb2

from .catalogue import ServedModel, TierSettings
from .generation import GenerationResult
from .pipeline import Picture
from .plan import GenerationPlan, TierName
from .progress import PictureStep
from .stages import StageName, StageRun

TIERS: dict[TierName, imaging.Tier] = {"free": imaging.TIER_FREE, "pro": imaging.TIER_PRO}
STAGES: dict[StageName, imaging.Stage] = {
    "text_encoding": imaging.STAGE_TEXT_ENCODING,
    "preprocessing": imaging.STAGE_PREPROCESSING,
    "diffusion": imaging.STAGE_DIFFUSION,
    "postprocessing": imaging.STAGE_POSTPROCESSING,
}
PREVIEW_QUALITY = 80


def to_image(picture: Picture) -> imaging.GeneratedImage:
    """Returns the message of a finished picture."""
    image = picture.image
    return imaging.GeneratedImage(
        index=picture.index,
        data=imaging.ImageData(
            content=image.content,
            mime_type=image.mime_type,
            width_px=image.width_px,
            height_px=image.height_px,
        ),
        seed=picture.seed,
        outcome=imaging.OUTCOME_OK,
    )


def to_progress(event: PictureStep, plan: GenerationPlan) -> imaging.GenerationProgress:
    """Returns the message of a denoising step, its preview as a JPEG of the picture's size."""
    step = event.step
    return imaging.GenerationProgress(
        stage=imaging.STAGE_DIFFUSION,
        completed_step_count=step.completed_step_count,
        step_count=step.step_count,
        preview=None if step.preview is None else _preview(step.preview, plan),
        image_index=event.index,
    )


def _preview(tensor: tensor_pb2.Tensor, plan: GenerationPlan) -> imaging.ImageData:
    height, width, _ = tensor.shape
    size = (plan.width_px, plan.height_px)
    picture = Image.frombytes("RGB", (width, height), tensor.data)
    file = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=PREVIEW_QUALITY)
    return imaging.ImageData(
        content=file.getvalue(), mime_type="image/jpeg", width_px=size[0], height_px=size[1]
    )


def to_stats(result: GenerationResult) -> imaging.GenerationStats:
    """Returns the message of a request's times and costs."""
    plan = result.plan
    runs = [run for picture in result.pictures for run in picture.runs]
    return imaging.GenerationStats(
        queue_duration=_duration(result.queue_duration_s),
        stages=[_stage_stats(name, result.pictures) for name in STAGES],
        dropped_token_count=max(picture.dropped_token_count for picture in result.pictures),
        total_duration=_duration(result.total_duration_s),
        compute_seconds=math.fsum(run.compute_seconds for run in runs),
        unet_evaluation_count=sum(r.evaluation_count for r in runs if r.stage == "diffusion"),
        settings=imaging.EffectiveSettings(
            tier=TIERS[plan.tier],
            step_count=plan.step_count,
            guidance_scale=plan.guidance_scale,
            scheduler=plan.scheduler,
            weights=plan.weights,
            width_px=plan.width_px,
            height_px=plan.height_px,
        ),
    )


def _stage_stats(name: StageName, pictures: Iterable[Picture]) -> imaging.StageStats:
    runs_by_picture = [[run for run in p.runs if run.stage == name] for p in pictures]
    runs: list[StageRun] = [run for runs in runs_by_picture for run in runs]
    return imaging.StageStats(
        stage=STAGES[name],
        duration=_duration(max(sum(run.duration_s for run in runs) for runs in runs_by_picture)),
        compute_seconds=math.fsum(run.compute_seconds for run in runs),
        engine=runs[0].engine if runs else "",
        precision=runs[0].precision if runs else "",
    )


def to_model(model: ServedModel) -> imaging.Model:
    """Returns the message of a served model."""
    limits = model.limits
    return imaging.Model(
        model_id=model.model_id,
        description=model.description,
        default_tier=TIERS[model.default_tier],
        tiers=[_tier(name, model.tiers[name]) for name in TIERS if name in model.tiers],
        schedulers=model.samplers.names,
        limits=imaging.ModelLimits(
            min_step_count=limits.min_step_count,
            max_step_count=limits.max_step_count,
            min_width_px=limits.min_width_px,
            max_width_px=limits.max_width_px,
            min_height_px=limits.min_height_px,
            max_height_px=limits.max_height_px,
            max_pixel_count=limits.max_pixel_count,
            size_multiple_px=limits.size_multiple_px,
            default_width_px=limits.default_width_px,
            default_height_px=limits.default_height_px,
            max_guidance_scale=limits.max_guidance_scale,
            max_image_count=limits.max_image_count,
            max_token_count=limits.max_token_count,
        ),
        weights=model.weights,
    )


def _tier(name: TierName, tier: TierSettings) -> imaging.TierSettings:
    return imaging.TierSettings(
        tier=TIERS[name],
        step_count=tier.step_count,
        max_step_count=tier.max_step_count,
        guidance_scale=tier.guidance_scale,
        scheduler=tier.scheduler,
        weights=tier.weights,
        unet_evaluation_count=tier.step_count * (2 if tier.guidance_scale > 1 else 1),
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
