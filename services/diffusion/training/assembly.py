"""Puts the trained parts into a folder that `StableDiffusionPipeline.from_pretrained` loads."""

# diffusers and transformers annotate loosely: `tuple[str]` for any tuple, outputs as bare tuples.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTokenizer

from .text import save_tokenizer
from .text_to_image import TextToImage, new_scheduler


def write_folder(
    model: TextToImage, autoencoder: AutoencoderKL, tokenizer: CLIPTokenizer, folder: Path
) -> None:
    """Writes the pipeline, weights in fp16; other files of the folder stay as they are."""
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True)
    save_tokenizer(tokenizer, folder / "tokenizer")
    for config in folder.glob("*/config.json"):
        _tidy(config)


def _tidy(config: Path) -> None:
    """Drops the path that a module was loaded from, and asks transformers to compute in f32.

    diffusers does so anyway; transformers would take the stored type, and the two would not meet.
    """
    values = json.loads(config.read_text("utf-8"))
    values.pop("_name_or_path", None)
    if "dtype" in values:
        values["dtype"] = "float32"
    config.write_text(json.dumps(values, indent=2) + "\n", "utf-8")


def read_pipeline(folder: Path) -> StableDiffusionPipeline:
    """Returns the folder's pipeline as it is served: fp16 weights, computed in f32."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
