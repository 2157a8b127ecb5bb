"""The model card's two figures: how the losses fell, and what common prompts give."""

# diffusers and transformers annotate loosely: `tuple[str]` for any tuple, outputs as bare tuples.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportMissingImports=false

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import torch
from matplotlib import pyplot
from PIL import Image

from .assembly import read_pipeline

SAMPLE_PROMPTS = (
    *("a rocket on a yellow background", "cat", "dog", "a red heart on a white background"),
    *("pizza", "car", "sun", "a smile on a blue background"),
    *("heart eyes", "a robot on a pink background", "a ghost on a black background", "unicorn"),
    *("panda", "penguin", "octopus", "butterfly"),
    *("a rose on a light blue background", "tree", "cactus", "apple"),
    *("banana", "strawberry", "burger", "sushi"),
    *("birthday cake", "coffee", "beer", "a house on a green background"),
    *("castle", "train", "airplane", "bicycle"),
    *("ship", "crescent moon", "rainbow", "snowman"),
    *("fire", "a balloon on a purple background", "gift", "soccer ball"),
    *("trophy", "guitar", "phone", "laptop"),
    *("camera", "books", "key", "alarm clock"),
    *("bomb", "crown", "sneaker", "umbrella"),
    *("pumpkin", "skull", "alien", "clown"),
    *("로켓", "노란색 배경의 고양이 얼굴", "🍓", "🚗 on a pink background"),
    *("an elephant on an orange background", "a lion on a blue background", "fish", "a duck"),
)
_STEPS, _GUIDANCE, _FIRST_SEED = 35, 3.0, 100
_COLUMNS, _TILE_PX = 8, 96


def write_figures(folder: Path, work: Path) -> None:
    """Writes `pictures/samples.png` and `pictures/loss.png` beside the model."""
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    sample_grid(folder).save(pictures / "samples.png", optimize=True)
    loss_curve(work, pictures / "loss.png")


def sample_grid(folder: Path) -> Image.Image:
    """Returns what the prompts above give, one seed each, not picked."""
    pipeline = read_pipeline(folder)
    grid = Image.new("RGB", (_COLUMNS * _TILE_PX, len(SAMPLE_PROMPTS) // _COLUMNS * _TILE_PX))
    for start in range(0, len(SAMPLE_PROMPTS), _COLUMNS):
        seeds = range(_FIRST_SEED + start, _FIRST_SEED + start + _COLUMNS)
        drawn = pipeline(
            list(SAMPLE_PROMPTS[start : start + _COLUMNS]),
            num_inference_steps=_STEPS,
            guidance_scale=_GUIDANCE,
            height=64,
            width=64,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        )
        for column, image in enumerate(drawn.images):
            tile = image.resize((_TILE_PX, _TILE_PX), Image.Resampling.LANCZOS)
            grid.paste(tile, (column * _TILE_PX, start // _COLUMNS * _TILE_PX))
    return grid


def loss_curve(work: Path, path: Path) -> None:
    """Draws each stage's loss over its minutes; the faint line is the raw one."""
    stages = [s for s in ("autoencoder", "unet", "decoder") if (work / f"{s}.jsonl").exists()]
    figure, axes = pyplot.subplots(1, len(stages), figsize=(4 * len(stages), 2.6), squeeze=False)
    for axis, stage in zip(axes[0], stages, strict=True):
        lines = [json.loads(line) for line in (work / f"{stage}.jsonl").read_text().splitlines()]
        minutes = np.array([line["minutes"] for line in lines])
        losses = np.array([line["loss"] for line in lines])
        width = max(1, len(losses) // 20)
        smooth = np.convolve(losses, np.ones(width) / width, "valid")
        axis.plot(minutes, losses, alpha=0.3, linewidth=0.8)
        axis.plot(minutes[len(minutes) - len(smooth) :], smooth, color="tab:blue")
        axis.set(title=f"{stage}, {lines[-1]['update']} updates", xlabel="minutes", yscale="log")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
