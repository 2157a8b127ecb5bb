"""Real pictures with names: Hugging Face's `imagefolder`, pictures beside `metadata.jsonl`.

They are what the judge learns from, what generated pictures are measured against, and where the
questions come from: each line's text is a prompt that its picture answers.
"""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

METADATA_NAME = "metadata.jsonl"
DEFAULT_GROUP = "all prompts"
# Of every four pictures of a name, one is held out of the judge's training.
_HELD_OUT_IN = 4
# A set of one has no covariance.
FEWEST_HELD_OUT = 2
_DECODERS = 2


class BadPictures(ValueError):
    """The folder of real pictures is missing or damaged; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Caption:
    """What is known of one picture.

    Attributes:
        text: the prompt that it answers.
        label: number of the name of what it shows.
        group: which prompts are scored together.
        background: name of the ground that the text asks for; None when it asks for none.
    """

    text: str
    label: int
    group: str
    background: str | None


@dataclass(frozen=True, slots=True)
class RealPictures:
    """Pictures and captions, in the order of the file.

    Attributes:
        pixels: [picture, side, side, 3], uint8.
        captions: one for each picture.
        names: what the labels mean.
    """

    pixels: NDArray[np.uint8]
    captions: tuple[Caption, ...]
    names: tuple[str, ...]

    @property
    def labels(self) -> NDArray[np.int64]:
        """The label of every picture, [picture]."""
        return np.array([caption.label for caption in self.captions])

    def digest(self) -> str:
        """Returns the sha256, in hex, of all that a judge learns from."""
        total = hashlib.sha256(json.dumps(self.names).encode())
        total.update(str(self.pixels.shape).encode())
        total.update(self.labels.tobytes())
        total.update(np.ascontiguousarray(self.pixels).data)
        return total.hexdigest()


@dataclass(frozen=True, slots=True)
class Split:
    """Row numbers: what the judge learns from, and two halves of what it never sees."""

    training: NDArray[np.int64]
    reference: NDArray[np.int64]
    control: NDArray[np.int64]


def read_pictures(folder: Path, side_px: int, tell: Callable[[int, int], None]) -> RealPictures:
    """Returns the folder's pictures, cropped to squares of one size.

    Args:
        folder: an `imagefolder`: each line of its `metadata.jsonl` has `file_name`, `text` and
            `label`, and may have `group` and `background`.
        side_px: width and height to bring the pictures to.
        tell: called with how many pictures are read, and of how many.

    Raises:
        BadPictures: the folder is missing, a line or a picture is bad, or there are too few.
    """
    records = _read_records(folder / METADATA_NAME)
    names = tuple(dict.fromkeys(str(record["label"]) for record in records))
    numbers = {name: number for number, name in enumerate(names)}
    pixels = np.empty((len(records), side_px, side_px, 3), np.uint8)

    def read(row: int) -> None:
        pixels[row] = _read_picture(folder / records[row]["file_name"], side_px)

    with ThreadPoolExecutor(_DECODERS) as threads:
        for done, _ in enumerate(threads.map(read, range(len(records)))):
            tell(done + 1, len(records))
    captions = [_caption(record, numbers) for record in records]
    return RealPictures(pixels, tuple(captions), names)


def split(pictures: RealPictures, seed: int = 0) -> Split:
    """Returns which pictures train the judge: three of four of each name, chosen by the seed.

    Raises:
        BadPictures: too few are left out to measure distances to.
    """
    order = np.random.default_rng(seed).permutation(len(pictures.captions))
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    seen = [0] * len(pictures.names)
    for row in order.tolist():
        label = pictures.captions[row].label
        place, seen[label] = seen[label], seen[label] + 1
        if place % _HELD_OUT_IN != _HELD_OUT_IN - 1:
            parts[0].append(row)
        else:
            # Alternating by name too, or names with few pictures would all fall into one half.
            parts[1 + (place // _HELD_OUT_IN + label) % 2].append(row)
    if min(len(part) for part in parts) < FEWEST_HELD_OUT:
        raise BadPictures(
            f"{len(pictures.captions)} pictures of {len(pictures.names)} names are too few: give "
            f"each name at least {_HELD_OUT_IN} pictures, and at least four names or 16 pictures"
        )
    return Split(*(np.array(sorted(part)) for part in parts))


def _read_records(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        raise BadPictures(
            f"there is no {file}. Name a folder of real pictures with --pictures: its "
            f"{METADATA_NAME} has a line for each, such as "
            '{"file_name": "0001.png", "text": "a cat on a red background", "label": "cat"}. '
            "Pocket's pictures are made by: "
            f"python -m sangsang.services.diffusion.training pictures {file.parent}"
        )
    records = []
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            missing = {"file_name", "text", "label"} - record.keys()
        except (ValueError, AttributeError) as exc:
            raise BadPictures(f"{file}, line {number}: not a JSON object") from exc
        if missing:
            raise BadPictures(f"{file}, line {number}: lacks {', '.join(sorted(missing))}")
        records.append(record)
    return records


def _caption(record: dict[str, Any], numbers: dict[str, int]) -> Caption:
    return Caption(
        text=str(record["text"]),
        label=numbers[str(record["label"])],
        group=str(record.get("group", DEFAULT_GROUP)),
        background=record.get("background"),
    )


def _read_picture(file: Path, side_px: int) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as picture:
            return fit(picture.convert("RGB"), side_px)
    except OSError as exc:
        raise BadPictures(f"{file} cannot be read as a picture: {exc}") from exc


def fit(picture: Image.Image, side_px: int) -> NDArray[np.uint8]:
    """Returns the middle square of an RGB picture at another size, [side, side, 3]."""
    if picture.size != (side_px, side_px):
        picture = ImageOps.fit(picture, (side_px, side_px), Image.Resampling.LANCZOS)
    return np.asarray(picture)
