"""Fits the preview map of a model: least squares between latents and what its decoder makes."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models.preview_map import PreviewMap

Array = NDArray[Any]

_SEED = 20261123
_PATCH = 4


def fit_preview(
    decode: Callable[[Array], Array],
    latent_channels: int,
    *,
    height: int = 16,
    width: int = 16,
    picture_count: int = 16,
) -> PreviewMap:
    """Returns the linear map that comes closest to a decoder's mean colours.

    Args:
        decode: from latents `[n, channels, height, width]`, f32, scaled as the UNet sees them, to
            pictures `[n, 3, height * scale, width * scale]` in [-1, 1].
        latent_channels: channels of the latents.
        height: of the latents to try.
        width: of the latents to try.
        picture_count: pictures to decode.
    """
    random = np.random.default_rng(_SEED)
    points: list[Array] = []
    colours: list[Array] = []
    for _ in range(picture_count):
        latents = _smooth_latents(random, (1, latent_channels, height, width))
        picture = decode(latents)[0]
        points.append(latents[0].reshape(latent_channels, -1).T)
        colours.append(_pooled(picture, height, width).reshape(3, -1).T)
    known = np.concatenate(points).astype(np.float64)
    known = np.concatenate([known, np.ones((len(known), 1))], axis=1)
    solution = np.linalg.lstsq(known, np.concatenate(colours).astype(np.float64), rcond=None)[0]
    return PreviewMap(solution[:-1].astype(np.float32), solution[-1].astype(np.float32))


def _smooth_latents(random: np.random.Generator, shape: tuple[int, int, int, int]) -> Array:
    """Returns standard normal patches with a little detail: decoders render pure noise as mud."""
    count, channels, height, width = shape
    coarse = (count, channels, -(-height // _PATCH), -(-width // _PATCH))
    patches = random.standard_normal(coarse).repeat(_PATCH, axis=2).repeat(_PATCH, axis=3)
    detail = 0.2 * random.standard_normal(shape)
    return (patches[:, :, :height, :width] + detail).astype(np.float32)


def _pooled(picture: Array, height: int, width: int) -> Array:
    """Returns `[3, height, width]`, the mean colour under each latent."""
    channels, tall, wide = picture.shape
    blocks = picture.reshape(channels, height, tall // height, width, wide // width)
    return np.clip(blocks, -1, 1).mean(axis=(2, 4))
