"""What pocket learns from: the list of concepts, how people ask for them, and the pictures."""

import json
import re
from collections import Counter
from random import Random

import numpy as np
import pytest
from PIL import Image

from sangsang.services.diffusion.training import composition, concepts
from sangsang.services.diffusion.training.concepts import Concept, read_concepts
from sangsang.services.diffusion.training.prompts import COLOURS, ask, every_prompt_word, plain

ROCKET = Concept("🚀", "1f680", "travel", ("rocket", "spaceship"), ("로켓", "우주선"))
GLASSES = Concept("👓", "1f453", "clothes", ("glasses",), ("안경",))
YELLOW = next(colour for colour in COLOURS if colour.name == "yellow")
GREY_DISC = Image.new("RGBA", (128, 128))
GREY_DISC.paste((10, 200, 10, 255), (0, 0, 128, 128))


def draw(seed: int) -> np.ndarray:
    picture = composition.compose(GREY_DISC, YELLOW.rgb, Random(seed))
    return np.asarray(picture).astype(int)


def artwork_of(picture: np.ndarray) -> np.ndarray:
    """Where the artwork is: `[height, width]`, bool."""
    return picture[:, :, 0] < 128


def test_a_composition_follows_from_its_seed():
    assert np.array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))


def test_the_artwork_is_whole_and_of_the_sizes_given():
    least, most = (share * composition.SIDE_PX for share in composition._SCALE)
    sides, corners = [], set()
    for seed in range(200):
        rows, columns = np.nonzero(artwork_of(draw(seed)))
        sides += [np.ptp(rows) + 1, np.ptp(columns) + 1]
        corners.add((rows.min(), columns.min()))
    # The tilt cuts the corners of a square that fills its artwork, never more.
    assert least - 2 <= min(sides) < max(sides) <= most + 1
    assert len(corners) > 50, "it turns up anywhere on the ground"
    assert {axis for corner in corners for axis in corner} >= set(range(1, 10))


def test_the_ground_stays_near_its_tone():
    for seed in range(20):
        picture = draw(seed)
        row, column = np.argwhere(~artwork_of(picture))[0]
        assert abs(picture[row, column] - YELLOW.rgb).max() <= composition._TONE_JITTER


def test_transparent_pixels_do_not_bleed_into_the_edges():
    glass = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
    glass.paste((255, 255, 255, 255), (40, 40, 88, 88))
    picture = np.asarray(composition.compose(glass, (255, 255, 255), Random(3)))
    assert picture.min() >= 255 - composition._TONE_JITTER


def test_a_pool_has_every_concept_and_nothing_that_is_held_out(tmp_path):
    names = [f"concept {number}" for number in range(7)]
    pool = composition.draw_pool([GREY_DISC] * 7, names, count=70, seed=5, workers=1)
    assert pool.pixels.shape == (70, 64, 64, 3)
    assert pool.pixels.dtype == np.uint8
    assert set(Counter(pool.concepts.tolist()).values()) == {10}
    for concept, colour in zip(pool.concepts, pool.colours, strict=True):
        assert not composition.is_held_out(names[concept], COLOURS[colour].name)
    again = composition.draw_pool([GREY_DISC] * 7, names, count=70, seed=5, workers=1)
    composition.save_pool(again, tmp_path / "pool.npz")
    stored = composition.load_pool(tmp_path / "pool.npz")
    assert np.array_equal(stored.pixels, pool.pixels)
    assert np.array_equal(stored.colours, pool.colours)
    assert [file.name for file in tmp_path.iterdir()] == ["pool.npz"]


def test_about_one_pair_in_25_is_held_out():
    pairs = [(f"concept {n}", colour.name) for n in range(500) for colour in COLOURS]
    share = sum(composition.is_held_out(*pair) for pair in pairs) / len(pairs)
    assert 0.03 < share < 0.05


def test_articles_fit():
    brown, orange = (next(c for c in COLOURS if c.name == n) for n in ("brown", "orange"))
    assert plain(ROCKET, YELLOW) == "a rocket on a yellow background"
    assert plain(ROCKET, orange) == "a rocket on an orange background"
    assert plain(GLASSES, brown) == "glasses on a brown background"
    assert plain(ROCKET) == "rocket"


def test_people_ask_in_every_way():
    prompts = [ask(ROCKET, YELLOW, Random(seed)) for seed in range(2000)]
    share = {
        "named": sum(bool(re.search("yellow|노란색", prompt)) for prompt in prompts),
        "korean": sum(bool(re.search("로켓|우주선", prompt)) for prompt in prompts),
        "emoji": sum("🚀" in prompt for prompt in prompts),
        "spaceship": sum("spaceship" in prompt for prompt in prompts),
    }
    expected = {"named": 0.6, "korean": 0.2, "emoji": 0.08, "spaceship": 0.72 * 0.4}
    for way, count in share.items():
        assert count / 2000 == pytest.approx(expected[way], abs=0.04), way
    assert not any("{" in prompt for prompt in prompts)


def test_the_vocabulary_has_every_name_and_colour():
    text = " ".join(every_prompt_word([ROCKET, GLASSES]))
    for word in (
        "spaceship",
        "안경",
        "🚀",
        *(c.name for c in COLOURS),
        *(c.korean for c in COLOURS),
    ):
        assert word in text, word


def test_the_list_names_each_concept_once():
    listed = list(concepts._listed())
    assert len(listed) == 516
    assert len({emoji for emoji, _, _ in listed}) == 516
    assert all(group for _, group, _ in listed)
    assert not any("\ufe0f" in emoji for emoji, _, _ in listed)


@pytest.fixture
def emojibase(tmp_path, monkeypatch):
    """A small list and emojibase-data for it."""
    records = {
        "en": [("🐶", "dog face", ["dog", "pet"]), ("🐱", "cat face", ["cat", "pet"])],
        "ko": [("🐶", "강아지 얼굴", ["강아지", "흰색"]), ("🐱", "고양이 얼굴", ["고양이"])],
    }
    for language, rows in records.items():
        (tmp_path / language).mkdir()
        data = [
            {"emoji": emoji, "hexcode": f"{ord(emoji):X}", "label": label, "tags": tags}
            for emoji, label, tags in rows
        ]
        (tmp_path / language / "data.json").write_text(json.dumps(data))
    path = tmp_path / "concepts.txt"
    path.write_text("# comment\n[animals]\n🐶=dog,good boy\n🐱\n")
    monkeypatch.setattr(concepts, "_LIST", path)
    return tmp_path


def test_names_are_own_then_label_then_what_nobody_else_claims(emojibase):
    dog, cat = read_concepts(emojibase)
    assert (dog.emoji, dog.hexcode, dog.group) == ("🐶", "1f436", "animals")
    assert dog.names == ("dog", "good boy", "dog face")
    assert cat.names == ("cat face", "cat"), "both have the tag `pet`, so neither has the name"
    assert dog.korean == ("강아지 얼굴", "강아지"), "a colour names the background"
    assert cat.name == "cat face"


@pytest.mark.parametrize("entries", ["🐶 🐶", "🐶=pet 🐱=pet"])
def test_a_list_that_claims_twice_is_refused(emojibase, entries):
    concepts._LIST.write_text(f"[animals]\n{entries}\n")
    with pytest.raises(ValueError, match="more than once"):
        read_concepts(emojibase)
