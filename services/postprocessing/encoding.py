"""Pixels to PNG, JPEG, WebP or AVIF, with metadata. The same pixels give the same bytes.

Effort is set for serving: a few-step model draws a picture in less time than a thorough PNG
encoder needs for it. The figures are in this folder's README.
"""

import io
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from PIL import Image

from .decoder import Rgb
from .metadata import PictureMetadata

MIN_QUALITY, MAX_QUALITY = 1, 100

_Options: TypeAlias = dict[str, Any]


def _png(_: int, metadata: PictureMetadata, level: int) -> _Options:
    return {"format": "PNG", "compress_level": level, "pnginfo": metadata.to_png()}


def _jpeg(quality: int, metadata: PictureMetadata, _: int) -> _Options:
    # Full colour resolution: small pictures with hard edges smear without it.
    options = {"format": "JPEG", "quality": quality, "subsampling": "4:4:4"}
    return {**options, **_containers(metadata)}


def _webp(quality: int, metadata: PictureMetadata, _: int) -> _Options:
    return {"format": "WEBP", "quality": quality, "method": 2, **_containers(metadata)}


def _avif(quality: int, metadata: PictureMetadata, _: int) -> _Options:
    options = {
        "format": "AVIF",
        "quality": quality,
        "speed": 9,
        "subsampling": "4:4:4",
        # The pool is what runs pictures side by side.
        "max_threads": 1,
    }
    return {**options, **_containers(metadata)}


_OPTIONS: Mapping[str, Callable[[int, PictureMetadata, int], _Options]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/webp": _webp,
    "image/avif": _avif,
}
MIME_TYPES = tuple(_OPTIONS)


def encode_picture(
    rgb: Rgb,
    *,
    mime_type: str,
    quality: int,
    metadata: PictureMetadata,
    png_compress_level: int = 1,
) -> bytes:
    """Returns an encoded picture. Blocks, but not Python: call it on a thread.

    Args:
        rgb: [H, W, 3], u8.
        mime_type: one of `MIME_TYPES`.
        quality: of a lossy format, 1 to 100; PNG ignores it.
        metadata: what to write besides the pixels.
        png_compress_level: zlib's effort, 0 to 9.
    """
    options = _OPTIONS[mime_type](quality, metadata, png_compress_level)
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, **options)
    return stream.getvalue()


def _containers(metadata: PictureMetadata) -> _Options:
    parts = {"exif": metadata.to_exif(), "xmp": metadata.to_xmp()}
    return {name: part for name, part in parts.items() if part}
