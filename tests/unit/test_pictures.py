"""Initial images: decoded as diffusers decodes good ones, refused in bounded time otherwise."""

import contextlib
import io
import resource
import struct
import time
import warnings

import numpy as np
import pytest
from hostile_pictures import MAGIC, bombs, chunk, encoded, header, noise_picture, png
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from sangsang.services.preprocessing.pictures import decode_picture, to_sample
from sangsang.services.runtime.errors import InvalidRequest
from sangsang.services.runtime.picture_checks import PictureLimits, picture_violations
from sangsang.services.runtime.picture_headers import BadHeader, read_header

LIMITS = PictureLimits()
FORMATS = ("PNG", "JPEG", "WEBP")
PICTURE = noise_picture()

# Variants of a good picture whose decoding must equal Pillow's `convert("RGB")`.
OPAQUE = {
    "png": encoded(PICTURE, "PNG"),
    "png grey": encoded(PICTURE.convert("L"), "PNG"),
    "png bits": encoded(PICTURE.convert("1"), "PNG"),
    "png palette": encoded(PICTURE.quantize(16), "PNG"),
    "png opaque alpha": encoded(PICTURE.convert("RGBA"), "PNG"),
    "png grey alpha": encoded(PICTURE.convert("LA"), "PNG"),
    "png 16-bit": png(2, 1, b"\0" + b"\x12\x34" * 6, depth=16),
    "png texts": encoded(PICTURE, "PNG", icc_profile=b"x" * 5000, dpi=(72, 72)),
    "png animated": encoded(PICTURE, "PNG", save_all=True, append_images=[noise_picture(seed=1)]),
    "jpeg": encoded(PICTURE, "JPEG"),
    "jpeg progressive": encoded(PICTURE, "JPEG", progressive=True),
    "jpeg grey": encoded(PICTURE.convert("L"), "JPEG"),
    "jpeg cmyk": encoded(PICTURE.convert("CMYK"), "JPEG"),
    "webp": encoded(PICTURE, "WEBP"),
    "webp lossless": encoded(PICTURE, "WEBP", lossless=True),
    "webp animated": encoded(PICTURE, "WEBP", save_all=True, append_images=[noise_picture(seed=1)]),
}


def refused(data: bytes, limits: PictureLimits = LIMITS) -> str:
    with pytest.raises(InvalidRequest) as caught:
        decode_picture(data, limits)
    (violation,) = caught.value.violations
    assert violation.field == "initial_image"
    return violation.description


@pytest.mark.parametrize("name", OPAQUE)
def test_a_good_picture_is_what_diffusers_would_see(name):
    with Image.open(io.BytesIO(OPAQUE[name])) as theirs:
        expected = np.asarray(theirs.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(decode_picture(OPAQUE[name], LIMITS)), expected)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", range(10))
def test_pictures_are_turned_upright(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PICTURE, kind, exif=exif.tobytes())
    with Image.open(io.BytesIO(data)) as theirs:
        expected = np.asarray(ImageOps.exif_transpose(theirs).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(decode_picture(data, LIMITS)), expected)


# Here a warning is an error; in a service it is a line on stderr.
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_leaves_the_picture_as_it_lies():
    data = encoded(PICTURE, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode_picture(data, LIMITS).size == PICTURE.size


def test_transparency_shows_white():
    picture = PICTURE.convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    shown = np.asarray(decode_picture(encoded(picture, "PNG"), LIMITS)).astype(float)
    alpha = np.asarray(picture.getchannel("A")).astype(float)[..., None] / 255
    expected = np.asarray(PICTURE) * alpha + 255 * (1 - alpha)
    assert np.abs(shown - expected).max() <= 1
    clear = PICTURE.convert("RGBA")
    clear.putalpha(0)
    assert (
        decode_picture(encoded(clear, "WEBP", lossless=True), LIMITS).getextrema()
        == ((255, 255),) * 3
    )


def test_a_transparent_palette_entry_shows_white():
    data = encoded(PICTURE.quantize(16), "PNG", transparency=bytes([0] * 16))
    assert np.asarray(decode_picture(data, LIMITS)).min() == 255


def test_16_bit_grey_keeps_its_shades():
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    shown = np.asarray(decode_picture(encoded(Image.fromarray(ramp), "PNG"), LIMITS))
    np.testing.assert_array_equal(shown[..., 0], ramp >> 8)


BOMBS = bombs()
# What would inflate is left out, or not read to its end.
HARMLESS = ("second header", "text", "international text", "profile", "pixels")


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_or_harmless(name):
    data = BOMBS[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    if name in HARMLESS:
        assert decode_picture(data, LIMITS).size == (1, 1)
    else:
        refused(data)
    assert time.perf_counter() - started < 1
    # In KiB. The pixels that the limit allows are 64 MB; a bomb gets nowhere near.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024


def test_the_limits_are_named():
    assert refused(BOMBS["30000x30000"]) == (
        "must have at most 16000000 pixels, claims 30000x30000"
    )
    assert (
        refused(b"x" * 101, PictureLimits(max_bytes=100)) == "must have at most 100 bytes, got 101"
    )
    assert "PNG, JPEG or WebP" in refused(b"a text file " * 350_000)
    assert "scans" in refused(BOMBS["jpeg scans"])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG",
        b"GIF89a\x01\x00\x01\x00",
        b"II*\0\x08\0\0\0",
        b"8BPS\0\x01",
        b"SIMPLE  =",
        b"%!PS-Adobe",
        b"%PDF-1.7",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"RIFF\x04\0\0\0WAVEfmt ",
        b"RIFF\x04\0\0\0WEBP",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xda\x00\x00",
        MAGIC,
        MAGIC + chunk(b"IDAT", b""),
        MAGIC + header(0, 5) + chunk(b"IEND", b""),
        MAGIC + header(5, 5) + chunk(b"IEND", b""),
        MAGIC + header(1, 1, depth=3) + chunk(b"IDAT", b"x") + chunk(b"IEND", b""),
    ],
    ids=repr,
)
def test_what_is_no_picture_is_refused(data):
    refused(data)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_cut_off_anywhere_is_refused(kind):
    data = encoded(PICTURE, kind)
    for end in range(0, len(data) - 12, max(1, len(data) // 50)):
        refused(data[:end])


def test_a_png_cut_off_anywhere_is_found_without_decoding():
    data = encoded(PICTURE, "PNG")
    for end in range(0, len(data) - 12, max(1, len(data) // 50)):
        assert picture_violations(data[:end], LIMITS), end


@pytest.mark.parametrize("name", OPAQUE)
def test_a_good_picture_has_no_violation(name):
    assert picture_violations(OPAQUE[name], LIMITS) == []


@pytest.mark.parametrize("filling", [b"\xff", b"\xd0\xff", b"\xe1\x00\x02\xff"])
def test_a_jpeg_that_never_tells_its_size_is_given_up(filling):
    data = b"\xff\xd8\xff" + filling * (8_000_000 // len(filling))
    (violation,) = picture_violations(data, LIMITS)
    assert "within 5000 JPEG markers" in violation.description


def test_the_header_alone_tells_too_large_pictures():
    assert picture_violations(OPAQUE["webp"], LIMITS) == []
    (violation,) = picture_violations(BOMBS["webp canvas"], LIMITS, field="f")
    assert violation.field == "f"


@pytest.mark.parametrize("name", OPAQUE)
def test_header_sizes_are_pillows(name):
    found = read_header(OPAQUE[name])
    with Image.open(io.BytesIO(OPAQUE[name])) as picture:
        assert (found.width_px, found.height_px) == picture.size


def test_nothing_global_is_touched():
    before = Image.MAX_IMAGE_PIXELS
    decode_picture(OPAQUE["png"], LIMITS)
    assert before == Image.MAX_IMAGE_PIXELS


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(OPAQUE)),
    st.lists(st.tuples(st.integers(0, 10**9), st.binary(min_size=1, max_size=6)), max_size=6),
    st.integers(0, 200),
)
def test_damage_is_refused_or_survived(name, patches, cut):
    data = bytearray(OPAQUE[name])
    for place, patch in patches:
        at = place % len(data)
        data[at : at + len(patch)] = patch
    decode_or_refuse(bytes(data[: len(data) - cut]))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([MAGIC, MAGIC + header(3, 3), b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8 ", b""]),
    st.binary(max_size=400),
)
@example(b"\xff\xd8\xff", b"\xc0\x00\x00")
def test_rubbish_is_refused(start, rest):
    decode_or_refuse(start + rest)


def decode_or_refuse(data: bytes) -> None:
    # Pillow warns of some damage; in a service that is a line in the log and no more.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(InvalidRequest):
            picture = decode_picture(data, LIMITS)
            assert picture.mode == "RGB"
            assert picture.width * picture.height <= LIMITS.max_pixels


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64))
def test_header_reading_has_one_kind_of_error(rest):
    for start in (MAGIC, b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b""):
        with contextlib.suppress(BadHeader):
            assert read_header(start + rest).width_px > 0


@pytest.mark.parametrize("size", [(64, 64), (96, 32), (16, 80), (40, 24)])
@pytest.mark.parametrize("kind", FORMATS)
def test_the_sample_is_that_of_diffusers(size, kind):
    from diffusers.image_processor import VaeImageProcessor

    picture = decode_picture(encoded(noise_picture(73, 55), kind), LIMITS)
    ours = to_sample(picture, width_px=size[0], height_px=size[1])
    theirs = VaeImageProcessor(vae_scale_factor=8).preprocess(
        picture, height=size[1], width=size[0]
    )
    np.testing.assert_array_equal(ours, theirs.numpy())
    assert ours.dtype == np.float32


def test_loading_equals_diffusers_load_image(tmp_path):
    from diffusers.utils import load_image

    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "picture.jpg"
    path.write_bytes(encoded(PICTURE, "JPEG", exif=exif.tobytes()))
    ours = decode_picture(path.read_bytes(), LIMITS)
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(load_image(str(path))))


def test_a_webp_whose_parts_disagree_is_bounded():
    data = bytearray(encoded(PICTURE, "WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"))
    assert data[12:16] == b"VP8X"
    data[24:30] = struct.pack("<I", 2000)[:3] + struct.pack("<I", 2000)[:3]
    decode_or_refuse(bytes(data))
