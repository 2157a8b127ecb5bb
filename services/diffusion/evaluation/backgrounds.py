"""Is the ground the one that was asked for? Tones are learnt from the real pictures themselves."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .real_pictures import Caption

# The ground is looked for along the edge: this share of the side, on all four.
_EDGE_IN = 32


@dataclass(frozen=True, slots=True)
class Backgrounds:
    """The tone of every ground that captions name.

    Attributes:
        names: of the grounds.
        tones: [ground, 3], RGB in 0..255.
    """

    names: tuple[str, ...]
    tones: NDArray[np.float64]

    @classmethod
    def learn(cls, pixels: NDArray[np.uint8], captions: Sequence[Caption]) -> "Backgrounds":
        """Returns the mean tone of each ground.

        Args:
            pixels: real pictures, [picture, side, side, 3].
            captions: what they show.
        """
        found: dict[str, list[NDArray[np.float64]]] = {}
        for picture, caption in zip(pixels, captions, strict=True):
            if caption.background is not None:
                found.setdefault(caption.background, []).append(edge_tone(picture))
        names = tuple(sorted(found))
        return cls(names, np.array([np.mean(found[name], axis=0) for name in names]).reshape(-1, 3))

    def name(self, picture: NDArray[np.uint8]) -> str:
        """Returns the ground whose tone is nearest to that of the picture's edge."""
        return self.names[np.square(self.tones - edge_tone(picture)).sum(1).argmin()]


def edge_tone(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns the median colour along the edge of a picture [height, width, 3]: [3]."""
    edge = max(1, len(picture) // _EDGE_IN)
    sides = [picture[:edge], picture[-edge:], picture[:, :edge], picture[:, -edge:]]
    return np.median(np.concatenate([side.reshape(-1, 3) for side in sides]), axis=0)
