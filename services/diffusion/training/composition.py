"""A picture to learn from: one emoji on a coloured ground, its place, size and tilt left to chance.

What varies here is what a seed decides at inference, so it is kept modest: every degree of freedom
costs training time that the objects themselves need.
"""

# ruff: noqa: S311 - pictures and prompts are drawn from seeds, not secrets

import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .prompts import COLOURS

SIDE_PX = 64
_SCALE = (0.78, 0.94)
_TILT_DEGREES = 8.0
_TONE_JITTER = 7
_HELD_OUT_IN = 25


@dataclass(frozen=True, slots=True)
class Compositions:
    """A pool of pictures: `pixels` [row, 64, 64, 3] uint8; `concepts`, `colours` [row] int16."""

    pixels: NDArray[np.uint8]
    concepts: NDArray[np.int16]
    colours: NDArray[np.int16]


def is_held_out(concept: str, colour: str) -> bool:
    """Tells the pairs that training never sees: one in 25, fixed by their names."""
    return zlib.crc32(f"{concept}|{colour}".encode()) % _HELD_OUT_IN == 0


def compose(artwork: Image.Image, rgb: tuple[int, int, int], rng: Random) -> Image.Image:
    """Returns one 64x64 picture of the artwork on the colour."""
    tone = tuple(min(255, max(0, c + rng.randint(-_TONE_JITTER, _TONE_JITTER))) for c in rgb)
    ground = Image.new("RGB", (SIDE_PX, SIDE_PX), tone)
    tilt = rng.uniform(-_TILT_DEGREES, _TILT_DEGREES)
    side = round(SIDE_PX * rng.uniform(*_SCALE))
    # Premultiplied, or the transparent pixels' black would bleed into the edges.
    emoji = artwork.convert("RGBa").rotate(tilt, Image.Resampling.BICUBIC)
    emoji = emoji.resize((side, side), Image.Resampling.LANCZOS).convert("RGBA")
    ground.paste(emoji, (rng.randint(0, SIDE_PX - side), rng.randint(0, SIDE_PX - side)), emoji)
    return ground


def draw_pool(
    artwork: list[Image.Image], names: list[str], count: int, seed: int, workers: int
) -> Compositions:
    """Returns `count` compositions, every concept equally often, none of them held out."""
    rng = Random(seed)
    pairs = [
        (concept, colour)
        for concept, name in enumerate(names)
        for colour, ground in enumerate(COLOURS)
        if not is_held_out(name, ground.name)
    ]
    by_concept: dict[int, list[int]] = {}
    for concept, colour in pairs:
        by_concept.setdefault(concept, []).append(colour)
    rows = [(row % len(names), rng.choice(by_concept[row % len(names)])) for row in range(count)]
    chunk = -(-count // (workers * 4))
    jobs = [(artwork, rows[i : i + chunk], seed + i + 1) for i in range(0, count, chunk)]
    with ProcessPoolExecutor(workers) as pool:
        pixels = np.concatenate(list(pool.map(_draw_rows, *zip(*jobs, strict=True))))
    table = np.array(rows, np.int16)
    return Compositions(pixels, table[:, 0], table[:, 1])


def save_pool(pool: Compositions, path: Path) -> None:
    """Writes the pool beside `path` and renames it, so that a half-written one is never read."""
    partial = path.with_name(f"partial-{path.name}")
    np.savez(partial, pixels=pool.pixels, concepts=pool.concepts, colours=pool.colours)
    partial.rename(path)


def load_pool(path: Path) -> Compositions:
    """Reads what `save_pool` wrote."""
    with np.load(path) as stored:
        return Compositions(stored["pixels"], stored["concepts"], stored["colours"])


def _draw_rows(
    artwork: list[Image.Image], rows: list[tuple[int, int]], seed: int
) -> NDArray[np.uint8]:
    rng = Random(seed)
    pictures = [compose(artwork[concept], COLOURS[colour].rgb, rng) for concept, colour in rows]
    return np.stack([np.asarray(picture) for picture in pictures])
