"""Cheap previews: a linear map from latents to colours, fitted to the model's own decoder.

A decoder costs about as much as a UNet step; one matrix product per latent shows enough to tell
where a picture is going.
"""

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelNotReady

PREVIEW_NAME = "preview.npz"


@dataclass(frozen=True, slots=True, eq=False)
class PreviewMap:
    """Colours in [-1, 1] from latents.

    Attributes:
        matrix: `[channels, 3]`, f32.
        bias: `[3]`, f32.
    """

    matrix: NDArray[np.float32]
    bias: NDArray[np.float32]

    def render(self, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Returns `[height, width, 3]`, u8, RGB, for latents `[channels, height, width]`, f32."""
        colours = np.einsum("chw,cr->hwr", latents, self.matrix) + self.bias
        return (np.clip(colours * 0.5 + 0.5, 0, 1) * 255).round().astype(np.uint8)

    def save(self, path: Path) -> None:
        """Writes an .npz."""
        with path.open("wb") as stream:
            np.savez(stream, matrix=self.matrix.astype("<f4"), bias=self.bias.astype("<f4"))

    @classmethod
    def load(cls, path: Path) -> "PreviewMap":
        """Returns the map of a file that `save` wrote.

        Raises:
            ModelNotReady: it is missing or damaged.
        """
        try:
            # Opened here, because numpy leaves a damaged file open.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return cls(stored["matrix"], stored["bias"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as exc:
            raise ModelNotReady(f"{path} holds no preview map: {exc}; build again") from exc
