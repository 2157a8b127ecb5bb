"""Latents to pixels: VAE decoder, and the check that what comes out is a picture. Knows no gRPC."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..runtime.engines.engine import Array, Engine
from ..runtime.errors import CorruptTensor
from ..runtime.models.folder import ModelFolder

Latents: TypeAlias = NDArray[np.float32]
Rgb: TypeAlias = NDArray[np.uint8]


class LatentDecoder:
    """The VAE decoder of one model.

    Args:
        folder: the model, for the shape and scale of its latents.
        engine: computes `image` from `latents`.
    """

    def __init__(self, folder: ModelFolder, engine: Engine) -> None:
        self.folder = folder
        self.engine = engine

    def decode(self, latents: Latents) -> Rgb:
        """Returns the picture of some latents. Blocks: call it on the engine's worker.

        Args:
            latents: [channels, h, w], f32, as the diffusion stage leaves them.

        Returns:
            [h*scale, w*scale, 3], u8, RGB.

        Raises:
            CorruptTensor: the latents or the decoded picture hold NaN or Inf. Cast to u8 they
                would be black or noise, and nobody could tell it from a picture meant to be so.
        """
        _check_finite(latents, "the latents")
        shift, scale = np.float32(self.folder.shift_factor), np.float32(self.folder.scaling_factor)
        # One picture a call. A batch needs neighbours of one size at the same moment, which the
        # lanes of the orchestrator make rare.
        outputs = self.engine.infer({"latents": (latents / scale + shift)[None]})
        image = outputs["image"][0]
        _check_finite(image, "the decoded picture")
        return to_rgb(image)

    def warm_up(self) -> None:
        """Runs the engine once at the model's own size. Blocks."""
        scale = self.folder.vae_scale
        size = (self.folder.default_height_px // scale, self.folder.default_width_px // scale)
        self.decode(np.zeros((self.folder.latent_channels, *size), dtype=np.float32))


def to_rgb(image: Array) -> Rgb:
    """Returns a decoded image as 8-bit pixels, as diffusers' `VaeImageProcessor.postprocess` does.

    Args:
        image: [3, H, W], f32, about [-1, 1]; clipped to it.

    Returns:
        [H, W, 3], u8.
    """
    unit = np.clip(image.astype(np.float32, copy=False) * np.float32(0.5) + np.float32(0.5), 0, 1)
    # `round` halves to even, as numpy does in diffusers.
    return np.ascontiguousarray((unit * 255).round().astype(np.uint8).transpose(1, 2, 0))


def _check_finite(values: Array, name: str) -> None:
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise CorruptTensor(
            f"{name}: {bad} of {values.size} values are not finite",
            metadata={"bad_value_count": str(bad), "value_count": str(values.size)},
        )
