"""diffusers, as a user would run it: what the mesh is compared with."""

import io
import warnings
from collections.abc import Callable, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

P = ParamSpec("P")
T = TypeVar("T")

PROMPTS = (
    "a rocket on a yellow background",
    "a red heart",
    "cat",
    "a dog on a blue background",
    "pizza",
    "a strawberry on a green background",
    "the sun",
    "a snowman on a pink background",
    "car",
    "a sailboat",
    "a tree on an orange background",
    "a bee",
    "a smiling face",
    "an umbrella on a purple background",
    "a guitar",
    "a fish on a white background",
    "고양이",
    "a crown, gold",
    "A VERY LONG prompt " + "with many many words that no text encoder of this size can take " * 8,
    "ümlauts, ♥ and 123",
)

# What a diffusers user writes for each name; overrides go to from_config.
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
}


def _quietly(function: Callable[P, T]) -> Callable[P, T]:
    """diffusers does what newer numpys and its own next release deprecate."""

    @wraps(function)
    def quiet(*args: P.args, **kwargs: P.kwargs) -> T:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*args, **kwargs)

    return quiet


@cache
def _pipelines(folder: Path, adapter: str = "", unet: str = "unet"):
    import torch
    from diffusers import (
        StableDiffusionImg2ImgPipeline,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )

    torch.set_num_threads(1)
    network = UNet2DConditionModel.from_pretrained(folder / unet, dtype=torch.float32)
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, dtype=torch.float32, safety_checker=None, unet=network
    )
    if adapter:
        pipeline.load_lora_weights(folder / adapter)
    pipeline.set_progress_bar_config(disable=True)
    from_image = StableDiffusionImg2ImgPipeline(
        **{**pipeline.components, "feature_extractor": None}, requires_safety_checker=False
    )
    from_image.set_progress_bar_config(disable=True)
    return pipeline, from_image


@_quietly
def reference_pictures(
    folder: Path,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    scheduler: str,
    step_count: int,
    guidance_scale: float,
    width_px: int,
    height_px: int,
    negative_prompt: str = "",
    initial_image: bytes = b"",
    strength: float = 0.8,
    adapter: str = "",
    unet: str = "unet",
) -> NDArray[np.uint8]:
    """`[prompts, height, width, 3]`, one generator for each prompt.

    `adapter` and `unet` are folders inside the model's.
    """
    import diffusers
    import torch

    pipeline, from_image = _pipelines(folder, adapter, unet)
    name, overrides = SCHEDULERS[scheduler]
    config = pipeline.scheduler.config
    chosen = getattr(diffusers, name).from_config(config, **overrides)
    pictures = []
    for prompt, seed in zip(prompts, seeds, strict=True):
        shared = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "generator": torch.Generator("cpu").manual_seed(seed),
            "num_inference_steps": step_count,
            "guidance_scale": guidance_scale,
            "output_type": "np",
        }
        if initial_image:
            from_image.scheduler = chosen
            picture = Image.open(io.BytesIO(initial_image)).convert("RGB")
            # The image to image pipeline takes its size from the picture, so size it first.
            picture = from_image.image_processor.resize(picture, height_px, width_px)
            images = from_image(image=picture, strength=strength, **shared).images
        else:
            pipeline.scheduler = chosen
            images = pipeline(width=width_px, height=height_px, **shared).images
        pictures.append((images[0] * 255).round().astype(np.uint8))
    pipeline.scheduler = type(pipeline.scheduler).from_config(config)
    return np.stack(pictures)


def decode(content: bytes) -> NDArray[np.uint8]:
    """`[height, width, 3]` of an encoded picture."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def gradient_png(width_px: int = 80, height_px: int = 56) -> bytes:
    """A picture with something in it, of a size that has to be changed."""
    y, x = np.mgrid[0:height_px, 0:width_px]
    red, green = x * 255 // width_px, y * 255 // height_px
    blue = ((x // 8 + y // 8) % 2) * 200
    file = io.BytesIO()
    Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
