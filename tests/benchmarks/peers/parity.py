"""Whether everybody makes the same pictures: same prompt, same seed, pixel by pixel."""

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from . import load
from .load import Ask
from .outcomes import TIERS, Ending, Outcome
from .results import Book

_COUNT = 3


class Pictures:
    """Keeps the pictures of the first who made them, which is our mesh, and compares others'."""

    def __init__(self) -> None:
        self._first: dict[str, list[np.ndarray]] = {}

    def compare(self, book: Book, make: Callable[[Sequence[Ask]], Sequence[Outcome]]) -> None:
        """Notes the largest difference of a pixel's channel to the first's, of 255, by tier.

        Args:
            book: takes the figures.
            make: makes pictures, in order, and keeps them.
        """
        for tier in TIERS:
            found = make(load.singles(tier, _COUNT, load.PEAK_SEED))
            if any(one.ending is not Ending.FINISHED for one in found):
                book.note("single", "picture_failure", found[-1].detail or "no picture", tier=tier)
                continue
            pictures = [pixels(one.picture) for one in found]
            if tier not in self._first:
                self._first[tier] = pictures
            value = largest_difference(self._first[tier], pictures)
            book.note("single", "pixel_difference", value, tier=tier)


def pixels(content: bytes) -> np.ndarray:
    """Returns `[height, width, 3]`, i16, of a picture file."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(np.int16)


def largest_difference(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> int:
    """Returns the largest difference of a channel between pictures of the same size."""
    return max(int(np.abs(a - b).max()) for a, b in zip(some, others, strict=True))
