"""The folder of real pictures: what is read, how it is divided, what is refused."""

import json

import numpy as np
import pytest
from named_pictures import write_named_pictures
from PIL import Image

from sangsang.services.diffusion.evaluation.real_pictures import BadPictures, read_pictures, split


def ignore(done, total):
    pass


@pytest.fixture
def folder(tmp_path):
    return write_named_pictures(tmp_path / "pictures")


def test_pictures_and_captions_in_the_order_of_the_file(folder):
    told = []
    pictures = read_pictures(folder, 16, lambda done, total: told.append((done, total)))
    assert pictures.pixels.shape == (32, 16, 16, 3)
    assert pictures.names == ("red", "green", "blue", "gold")
    assert pictures.captions[9].text == "green on black"
    assert pictures.captions[9].background == "black"
    assert told[-1] == (32, 32)


def test_pictures_of_other_sizes_are_cropped_and_resized(folder):
    Image.new("L", (50, 30), 128).save(folder / "red-0.png")
    assert read_pictures(folder, 16, ignore).pixels[0].mean() == 128


def test_the_split_is_stratified_and_repeatable(folder):
    pictures = read_pictures(folder, 16, ignore)
    first, again = split(pictures), split(pictures)
    parts = (first.training, first.reference, first.control)
    assert [len(part) for part in parts] == [24, 4, 4]
    assert sorted(np.concatenate(parts).tolist()) == list(range(32))
    assert np.bincount(pictures.labels[first.training]).tolist() == [6] * 4
    assert (first.reference == again.reference).all()


def test_too_few_pictures_are_refused(tmp_path):
    pictures = read_pictures(write_named_pictures(tmp_path, each=3), 16, ignore)
    with pytest.raises(BadPictures, match="too few"):
        split(pictures)


def test_the_digest_follows_pictures_and_names(folder):
    before = read_pictures(folder, 16, ignore).digest()
    assert before == read_pictures(folder, 16, ignore).digest()
    Image.new("RGB", (16, 16)).save(folder / "red-0.png")
    assert before != read_pictures(folder, 16, ignore).digest()


def test_a_missing_folder_says_how_to_make_one(tmp_path):
    with pytest.raises(BadPictures, match="training pictures"):
        read_pictures(tmp_path, 16, ignore)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object"),
        (json.dumps({"file_name": "a.png", "text": "a"}), "lacks label"),
        (json.dumps({"file_name": "a.png", "text": "a", "label": "a"}), "a.png cannot be read"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, words):
    (tmp_path / "metadata.jsonl").write_text(line + "\n")
    with pytest.raises(BadPictures, match=words):
        read_pictures(tmp_path, 16, ignore)
