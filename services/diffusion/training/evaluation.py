"""What pocket is evaluated with: real pictures of every concept, with the prompts they answer.

Half of a concept's pictures answer its bare name, on a ground that chance picks. The others answer
"a ... on a ... background", through all twelve grounds, pairs that training never saw included and
grouped apart: they show whether prompts compose.
"""

# ruff: noqa: S311 - pictures are drawn from seeds, not secrets

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image

from ..evaluation.real_pictures import METADATA_NAME
from .composition import compose, is_held_out
from .concepts import Concept
from .prompts import COLOURS, Colour, plain

BARE, SEEN, HELD_OUT = "bare names", "seen pairs", "held-out pairs"
# Not a seed of the pools that training draws.
_SEED = 100
# PNG's fastest: these are read far more often than they are kept.
_COMPRESSION = 1


@dataclass(frozen=True, slots=True)
class Subject:
    """One picture to draw: on which ground, and which ground its prompt names."""

    concept: Concept
    ground: Colour
    named: Colour | None

    @property
    def group(self) -> str:
        """Which prompts this one is scored with."""
        if self.named is None:
            return BARE
        return HELD_OUT if is_held_out(self.concept.name, self.named.name) else SEEN

    def record(self, file_name: str) -> dict[str, str]:
        """Returns the picture's line of metadata."""
        line = {
            "file_name": file_name,
            "text": plain(self.concept, self.named),
            "label": self.concept.name,
            "group": self.group,
        }
        return line | ({"background": self.named.name} if self.named else {})


def subjects(concepts: list[Concept], number: int, count: int) -> Iterator[Subject]:
    """Yields what a concept's pictures show; the second half goes through the grounds in turn."""
    rng = Random(_SEED + number)
    for place in range(count):
        if place < count // 2:
            yield Subject(concepts[number], rng.choice(COLOURS), None)
        else:
            ground = COLOURS[(number + place) % len(COLOURS)]
            yield Subject(concepts[number], ground, ground)


def write_pictures(
    folder: Path,
    concepts: list[Concept],
    artwork: list[Image.Image],
    count: int,
    tell: Callable[[int], None],
) -> None:
    """Writes real pictures as an `imagefolder`; its metadata come last, so it is whole or none.

    Args:
        folder: where to.
        concepts: what to draw.
        artwork: their pictures, RGBA.
        count: pictures of each concept.
        tell: called with how many concepts are drawn.
    """
    lines = []
    for number in range(len(concepts)):
        rng = Random(f"{_SEED} {number}")
        (folder / f"{number:04}").mkdir(parents=True, exist_ok=True)
        for place, subject in enumerate(subjects(concepts, number, count)):
            name = f"{number:04}/{place:03}.png"
            picture = compose(artwork[number], subject.ground.rgb, rng)
            picture.save(folder / name, compress_level=_COMPRESSION)
            lines.append(json.dumps(subject.record(name), ensure_ascii=False))
        tell(number + 1)
    (folder / METADATA_NAME).write_text("\n".join(lines) + "\n", "utf-8")
