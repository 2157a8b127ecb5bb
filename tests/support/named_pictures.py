"""Folders of real pictures with names: squares of a colour on a dark or a light ground."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIDE_PX = 16
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (40, 50, 220),
    "gold": (230, 190, 0),
}
GROUNDS = {"black": (10, 10, 10), "white": (245, 245, 245)}


def write_named_pictures(folder: Path, each: int = 8) -> Path:
    """Writes `each` pictures of four names; every other one names its ground in the prompt."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, colour in COLOURS.items():
        for number in range(each):
            ground = ("black", "white")[number // 2 % 2]
            file = f"{name}-{number}.png"
            draw(colour, GROUNDS[ground], number).save(folder / file)
            lines.append(json.dumps({"file_name": file, **caption(name, ground, number % 2 == 1)}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def caption(name: str, ground: str, names_ground: bool) -> dict[str, str]:
    if not names_ground:
        return {"text": name, "label": name, "group": "bare"}
    text = f"{name} on {ground}"
    return {"text": text, "label": name, "group": "grounded", "background": ground}


def draw(colour: tuple[int, int, int], ground: tuple[int, int, int], seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    pixels = np.empty((SIDE_PX, SIDE_PX, 3), np.uint8)
    pixels[:] = ground
    top, left = rng.integers(2, 6, 2)
    pixels[top : top + 8, left : left + 8] = colour
    return Image.fromarray(pixels)
