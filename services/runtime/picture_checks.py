"""Whether an encoded picture may be decoded, as far as its structure tells; nothing is decoded.

Cheap enough for an event loop. The orchestrator asks, to name a broken picture together with the
other bad fields of a request, and the preprocessing stage asks again before it decodes one.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import FieldViolation
from .picture_headers import BadHeader, PictureHeader, read_header
from .settings import MEBIBYTE

# A progressive JPEG has about ten scans, each as long as the picture to decode: thousands are an
# attack. Thumbnails and embedded pictures add some.
_MAX_JPEG_SCANS = 100
_MAX_PNG_CHUNKS = 65_536
# Magic and IHDR, whose length `read_header` has checked.
PNG_HEADER_BYTES = 33


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What is too large to be decoded.

    Attributes:
        max_bytes: of the encoded picture.
        max_pixels: width times height.
    """

    max_bytes: int = 12 * MEBIBYTE
    max_pixels: int = 16_000_000


def picture_violations(
    data: bytes, limits: PictureLimits, *, field: str = "initial_image"
) -> list[FieldViolation]:
    """Returns what is wrong with a picture as far as its structure tells."""
    try:
        check_picture(data, limits)
    except BadHeader as bad:
        return [FieldViolation(field, str(bad))]
    return []


def check_picture(data: bytes, limits: PictureLimits) -> PictureHeader:
    """Returns the header of a picture that may be decoded.

    Raises:
        BadHeader: it is too large, of another format, or cut off where its structure shows it,
            which is anywhere in a PNG and in the header of the others.
    """
    if len(data) > limits.max_bytes:
        raise BadHeader(f"must have at most {limits.max_bytes} bytes, got {len(data)}")
    header = read_header(data)
    check_size(header.width_px, header.height_px, limits)
    if header.format == "JPEG" and data.count(b"\xff\xda") > _MAX_JPEG_SCANS:
        raise BadHeader(f"must have at most {_MAX_JPEG_SCANS} JPEG scans")
    if header.format == "PNG":
        for _ in png_chunks(data):
            pass
    return header


def check_size(width_px: int, height_px: int, limits: PictureLimits) -> None:
    """Raises `BadHeader` if a picture has too many pixels."""
    if width_px * height_px > limits.max_pixels:
        raise BadHeader(
            f"must have at most {limits.max_pixels} pixels, claims {width_px}x{height_px}"
        )


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields kind, start and end of each chunk between a PNG's header and its IEND.

    Raises:
        BadHeader: it is cut off, or has too many chunks.
    """
    at = PNG_HEADER_BYTES
    for _ in range(_MAX_PNG_CHUNKS):
        if at + 12 > len(data):
            raise BadHeader("is a PNG that is cut off")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind == b"IEND":
            return
        yield kind, at, end
        at = end
    raise BadHeader(f"must have at most {_MAX_PNG_CHUNKS} PNG chunks")
