"""Encoded pictures: their pixels, what they say of themselves, and that it is always the same."""

import io
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hostile_pictures import noise_picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sangsang.services.postprocessing.converters import MAX_PARAMETER_CHARACTERS, MAX_PARAMETERS
from sangsang.services.postprocessing.encoding import MIME_TYPES, encode_picture
from sangsang.services.postprocessing.metadata import (
    GENERATED_SOURCE_TYPE,
    Parameter,
    PictureMetadata,
    a1111_line,
    to_json,
)

RGB = np.asarray(noise_picture(72, 40))
LOSSY = [mime_type for mime_type in MIME_TYPES if mime_type != "image/png"]
PARAMETERS = tuple(
    Parameter(name, value)
    for name, value in {
        "prompt": "a cat, 상상 <b>&amp; 🚀\nsecond line",
        "negative_prompt": "blurry",
        "seed": "7",
        "step_count": "3",
        "guidance_scale": "5.5",
        "scheduler": "euler",
        "model_id": "pocket",
        "width_px": "72",
        "height_px": "40",
        "weights": "free: student, 3",
    }.items()
)
LINE = (
    "a cat, 상상 <b>&amp; 🚀\nsecond line\nNegative prompt: blurry\n"
    "Steps: 3, Sampler: euler, CFG scale: 5.5, Seed: 7, Size: 72x40, Model: pocket, "
    'weights: "free: student, 3"'
)


def encode(mime_type, *, quality=90, parameters=PARAMETERS, marked=True, rgb=RGB, **options):
    metadata = PictureMetadata(parameters, marked=marked)
    return encode_picture(rgb, mime_type=mime_type, quality=quality, metadata=metadata, **options)


def opened(content):
    picture = Image.open(io.BytesIO(content))
    picture.load()
    return picture


def xmp(picture):
    """The XMP packet as a tree; None without one."""
    packet = picture.info.get("xmp") or picture.info.get("XML:com.adobe.xmp")
    if not packet:
        return None
    text = packet.decode() if isinstance(packet, bytes) else packet
    return ET.fromstring(text[text.index("<x:xmpmeta") : text.index("<?xpacket end")])


def found(tree, name):
    return next((node.text for node in tree.iter() if node.tag.endswith(name)), None)


def user_comment(picture):
    comment = picture.getexif().get_ifd(0x8769).get(0x9286, b"")
    assert comment[:8] in (b"", b"UNICODE\0")
    return comment[8:].decode("utf-16-be")


@pytest.mark.parametrize("mime_type", MIME_TYPES)
def test_the_format_is_the_one_asked_for(mime_type):
    picture = opened(encode(mime_type))
    assert Image.MIME[picture.format] == mime_type
    assert (picture.size, picture.mode) == ((72, 40), "RGB")


@pytest.mark.parametrize("level", [0, 1, 9])
def test_png_keeps_every_pixel(level):
    picture = opened(encode("image/png", png_compress_level=level))
    np.testing.assert_array_equal(np.asarray(picture), RGB)


@pytest.mark.parametrize("mime_type", LOSSY)
def test_quality_trades_size_for_likeness(mime_type):
    sizes, errors = [], []
    for quality in (1, 50, 90, 100):
        content = encode(mime_type, quality=quality, parameters=())
        sizes.append(len(content))
        errors.append(np.abs(np.asarray(opened(content)).astype(int) - RGB).mean())
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    # WebP halves the colour's resolution whatever the quality.
    assert errors[-1] < (8 if mime_type == "image/webp" else 3)


@pytest.mark.parametrize("mime_type", MIME_TYPES)
@pytest.mark.parametrize("parameters", [(), PARAMETERS], ids=["bare", "told"])
def test_every_picture_is_marked_as_generated(mime_type, parameters):
    tree = xmp(opened(encode(mime_type, parameters=parameters)))
    assert found(tree, "DigitalSourceType") == GENERATED_SOURCE_TYPE


@pytest.mark.parametrize("mime_type", MIME_TYPES)
def test_without_mark_and_parameters_nothing_is_said(mime_type):
    picture = opened(encode(mime_type, parameters=(), marked=False))
    assert xmp(picture) is None
    assert not picture.getexif()
    assert "parameters" not in picture.info


def test_png_tells_its_parameters():
    picture = opened(encode("image/png", marked=False))
    assert picture.text["parameters"] == LINE
    assert json.loads(picture.text["sangsang"]) == {p.name: p.value for p in PARAMETERS}
    assert xmp(picture) is None


def test_plain_parameters_are_a_text_chunk_that_old_readers_know():
    content = encode("image/png", parameters=[Parameter("prompt", "a cat"), Parameter("seed", "1")])
    assert b"tEXtparameters\0a cat\nSeed: 1" in content


@pytest.mark.parametrize("mime_type", LOSSY)
def test_other_formats_tell_their_parameters(mime_type):
    picture = opened(encode(mime_type))
    assert user_comment(picture) == LINE
    told = json.loads(found(xmp(picture), "parameters"))
    assert told == {p.name: p.value for p in PARAMETERS}


@pytest.mark.parametrize("mime_type", MIME_TYPES)
def test_the_same_picture_has_the_same_bytes(mime_type):
    assert encode(mime_type) == encode(mime_type)


@pytest.mark.parametrize("mime_type", MIME_TYPES)
@pytest.mark.parametrize("character", ["\x01", "🚀", "&", "\\", "\uffff"])
def test_the_longest_parameters_fit(mime_type, character):
    fillers = [Parameter(f"n{i:063d}", "") for i in range(MAX_PARAMETERS - 1)]
    parameters = [Parameter("prompt", character * MAX_PARAMETER_CHARACTERS), *fillers]
    picture = opened(encode(mime_type, parameters=parameters))
    told = picture.info.get("sangsang") or found(xmp(picture), "parameters")
    assert json.loads(told)["prompt"] == parameters[0].value


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(MIME_TYPES), st.text(max_size=200), st.text(max_size=50))
def test_any_text_survives(mime_type, prompt, other):
    parameters = [Parameter("prompt", prompt), Parameter("other", other)]
    picture = opened(encode(mime_type, parameters=parameters, rgb=RGB[:8, :8]))
    told = picture.info.get("sangsang") or found(xmp(picture), "parameters")
    assert json.loads(told) == {"prompt": prompt, "other": other}
    line = picture.info.get("parameters") or user_comment(picture)
    assert line == a1111_line(parameters)
    assert not any(ord(c) < 32 and c not in "\t\n" for c in line)


def test_the_json_is_as_given():
    assert to_json([Parameter("a", "1"), Parameter("b", '"\x00')]) == '{"a":"1","b":"\\"\\u0000"}'
