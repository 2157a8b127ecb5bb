"""Encoded pictures to pixels, safely: what arrives here was made by a stranger.

Only PNG, JPEG and WebP are opened, by their first bytes; sizes are checked before a decoder runs;
whatever a decoder then says, the caller gets one `InvalidRequest`. A good picture comes out as
`diffusers.utils.load_image` and `VaeImageProcessor.preprocess` give it.
"""

import io
import struct
import zlib
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..runtime.errors import FieldViolation, InvalidRequest
from ..runtime.picture_checks import (
    PNG_HEADER_BYTES,
    PictureLimits,
    check_picture,
    check_size,
    png_chunks,
)
from ..runtime.picture_headers import BadHeader, PictureHeader

Pixels: TypeAlias = NDArray[np.float32]

_MAX_EXIF_BYTES = 65_536
_PNG_ESSENTIALS = frozenset({b"PLTE", b"tRNS", b"IDAT", b"eXIf"})
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_picture(
    data: bytes, limits: PictureLimits, *, field: str = "initial_image"
) -> Image.Image:
    """Returns the picture upright, in RGB; of an animation the first frame.

    Transparent parts show white, as on paper; a picture that is opaque is unchanged by that.

    Raises:
        InvalidRequest: it is too large, damaged, or of another format.
    """
    try:
        return _decode(data, check_picture(data, limits), limits)
    except BadHeader as bad:
        raise InvalidRequest([FieldViolation(field, str(bad))]) from None
    except MemoryError:
        raise
    except Exception as error:  # Decoders answer hostile bytes with every kind of exception.
        raise InvalidRequest(
            [FieldViolation(field, "is damaged or cut off and cannot be decoded")]
        ) from error


def to_sample(picture: Image.Image, *, width_px: int, height_px: int) -> Pixels:
    """Returns a picture as the VAE takes it, stretched to the size given.

    Args:
        picture: in RGB.
        width_px: width to resize to.
        height_px: height to resize to.

    Returns:
        [1, 3, height_px, width_px], f32, in [-1, 1]; what diffusers' `VaeImageProcessor` returns.
    """
    resized = picture.resize((width_px, height_px), resample=Image.Resampling.LANCZOS)
    pixels = np.asarray(resized, dtype=np.float32) / np.float32(255)
    pixels = pixels.transpose(2, 0, 1)[None] * np.float32(2) - np.float32(1)
    return np.ascontiguousarray(pixels)


def _decode(data: bytes, header: PictureHeader, limits: PictureLimits) -> Image.Image:
    if header.format == "PNG":
        data = _essential_png(data)
    with Image.open(io.BytesIO(data), formats=(header.format,)) as picture:
        # A second header further on must not undo the check of the first.
        check_size(*picture.size, limits)
        picture.load()
        turn = _turn_upright(picture)
        rgb = _to_rgb(picture)
    return rgb if turn is None else rgb.transpose(turn)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255, which makes nearly every 16-bit grey white.
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    paper = Image.new("RGBA", picture.size, "white")
    paper.alpha_composite(picture.convert("RGBA"))
    return paper.convert("RGB")


def _turn_upright(picture: Image.Image) -> Image.Transpose | None:
    try:
        return _UPRIGHT.get(picture.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # Damaged EXIF does not make a picture bad; it is shown as it lies.
        return None


def _essential_png(data: bytes) -> bytes:
    """Returns a PNG with the chunks that its pixels need, and none that inflate to something large.

    Text and colour profiles are compressed and may expand a thousandfold; frames of an animation
    go as well, which leaves its still picture.

    Raises:
        BadHeader: it is cut off, or has too many chunks.
    """
    kept = [data[:PNG_HEADER_BYTES]]
    for kind, start, end in png_chunks(data):
        too_long = kind == b"eXIf" and end - start > _MAX_EXIF_BYTES
        if kind in _PNG_ESSENTIALS and not too_long:
            kept.append(data[start:end])
    return b"".join([*kept, _png_chunk(b"IEND", b"")])


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
