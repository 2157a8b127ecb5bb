"""Format and size of an encoded picture from its first bytes, before any decoder sees it.

A PNG of 74 bytes can claim 30000x30000 pixels, and some decoders take their memory when they open
a file. So the size is read here, by hand, and checked first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

PictureFormat: TypeAlias = Literal["PNG", "JPEG", "WEBP"]

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# Start-of-frame markers: C0 to CF but for DHT (C4), JPG (C8) and DAC (CC).
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers that stand alone, without a length: TEM and RST0 to EOI.
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xDA)})
# A colour profile takes at most 255, metadata a few more. Megabytes of padding would be read byte
# by byte, and whoever reads headers on an event loop would answer nobody meanwhile.
_MAX_JPEG_MARKERS = 5000


class BadHeader(Exception):
    """The bytes are no picture that is taken; the message says why, in words for the caller."""


@dataclass(frozen=True, slots=True)
class PictureHeader:
    """What the first bytes of a picture say.

    Attributes:
        format: Pillow's name of the format.
        width_px: width before it is turned upright.
        height_px: height before it is turned upright.
    """

    format: PictureFormat
    width_px: int
    height_px: int


def read_header(data: bytes) -> PictureHeader:
    """Returns the format and size of a picture.

    Raises:
        BadHeader: it is not a PNG, JPEG or WebP, or ends within its header.
    """
    kind, read = _format(data)
    try:
        width_px, height_px = read(data)
    except IndexError:
        raise BadHeader(f"is cut off within its {kind} header") from None
    if width_px < 1 or height_px < 1:
        raise BadHeader(f"claims {width_px}x{height_px} pixels")
    return PictureHeader(kind, width_px, height_px)


def _format(data: bytes) -> tuple[PictureFormat, Callable[[bytes], tuple[int, int]]]:
    if data.startswith(_PNG_MAGIC):
        return "PNG", _png_size
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG", _jpeg_size
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP", _webp_size
    raise BadHeader("must be a PNG, JPEG or WebP picture")


def _png_size(data: bytes) -> tuple[int, int]:
    if data[8:16] != b"\x00\x00\x00\rIHDR":
        raise BadHeader("is a PNG that does not begin with its header")
    return _big(data, 16, 4), _big(data, 20, 4)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    for _ in range(_MAX_JPEG_MARKERS):
        if data[at] != 0xFF:
            raise BadHeader("is a JPEG with a damaged header")
        marker = data[at + 1]
        at += 1
        # FF may be repeated as padding.
        if marker == 0xFF:
            continue
        at += 1
        if marker in _JPEG_BARE:
            continue
        if marker in _JPEG_FRAMES:
            return _big(data, at + 5, 2), _big(data, at + 3, 2)
        if marker == 0xDA:
            raise BadHeader("is a JPEG whose pixels come before its size")
        at += max(_big(data, at, 2), 2)
    raise BadHeader(f"must have its size within {_MAX_JPEG_MARKERS} JPEG markers")


def _webp_size(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + _little(data, 24, 3), 1 + _little(data, 27, 3)
    if chunk == b"VP8L":
        bits = _little(data, 21, 4)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        # 14 bits each; the upper two are a display scale.
        return _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF
    raise BadHeader("is a WebP without a picture")


def _big(data: bytes, at: int, count: int) -> int:
    data[at + count - 1]  # Raises IndexError where a slice would come out short.
    return int.from_bytes(data[at : at + count], "big")


def _little(data: bytes, at: int, count: int) -> int:
    data[at + count - 1]
    return int.from_bytes(data[at : at + count], "little")
