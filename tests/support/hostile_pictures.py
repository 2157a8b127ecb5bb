"""Pictures as an attacker or a broken camera makes them, and the pieces to make more."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

MAGIC = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    """One PNG chunk with a good checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int, height: int, *, depth: int = 8, colour: int = 2) -> bytes:
    """An IHDR chunk; colour 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def png(
    width: int, height: int, rows: bytes, *, depth: int = 8, colour: int = 2, before: bytes = b""
) -> bytes:
    """A PNG of filtered rows, with chunks before its pixels."""
    pixels = chunk(b"IDAT", zlib.compress(rows, 9))
    ihdr = header(width, height, depth=depth, colour=colour)
    return MAGIC + ihdr + before + pixels + chunk(b"IEND", b"")


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    """A picture encoded by Pillow."""
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def noise_picture(width: int = 40, height: int = 24, *, seed: int = 0) -> Image.Image:
    """A smooth picture with some noise, in RGB."""
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 255 // width, y * 255 // height, (x + y) * 4 % 256], axis=-1)
    noise = np.random.default_rng(seed).integers(0, 30, smooth.shape)
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


def bombs() -> dict[str, bytes]:
    """Pictures that are small and claim or become something large."""
    inflating = zlib.compress(b"\0" * (1 << 26), 9)
    small = {"width": 1, "height": 1, "rows": b"\0abc"}
    vp8x = struct.pack("<I", 10) + b"\0" * 4 + b"\xff\xff\x3f" + b"\xff\xff\x3f"
    scans = encoded(noise_picture(), "JPEG", progressive=True)[:-2] + b"\xff\xda\x00\x02" * 5000
    return {
        "30000x30000": png(30000, 30000, b""),
        # Passes Pillow's own limit with no more than a warning.
        "13000x13000": png(13000, 13000, b""),
        "2^31": MAGIC + header(2**31 - 1, 2**31 - 1) + chunk(b"IEND", b""),
        "webp canvas": b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + vp8x,
        "jpeg 65535": b"\xff\xd8\xff\xc0\x00\x0b\x08\xff\xff\xff\xff\x01\x01\x11\x00",
        "jpeg scans": scans,
        "png chunks": MAGIC + header(1, 1) + chunk(b"abCd", b"") * 200_000,
        "second header": png(**small, before=header(30000, 30000)),
        "text": png(**small, before=chunk(b"zTXt", b"k\0\0" + inflating) * 8),
        "international text": png(**small, before=chunk(b"iTXt", b"k\0\1\0\0\0" + inflating) * 8),
        "profile": png(**small, before=chunk(b"iCCP", b"k\0\0" + inflating)),
        "pixels": png(1, 1, b"\0" * (1 << 26)),
    }
