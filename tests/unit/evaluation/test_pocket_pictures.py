"""The real pictures that pocket is judged by: every prompt of the evaluation has its pictures."""

import pytest
from PIL import Image

from sangsang.services.diffusion.evaluation.questions import ask_each
from sangsang.services.diffusion.evaluation.real_pictures import read_pictures
from sangsang.services.diffusion.training.composition import is_held_out
from sangsang.services.diffusion.training.concepts import Concept
from sangsang.services.diffusion.training.evaluation import subjects, write_pictures
from sangsang.services.diffusion.training.prompts import COLOURS

# A rocket on pink is among the pairs that training leaves out.
CONCEPTS = [Concept("x", "1", "things", (name,), ()) for name in ("cat", "rocket", "apple", "sun")]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    artwork = [Image.new("RGBA", (64, 64), (200, 30 * n, 0, 255)) for n in range(len(CONCEPTS))]
    write_pictures(folder, CONCEPTS, artwork, 48, lambda done: None)
    return read_pictures(folder, 64, lambda done, total: None)


def test_half_of_a_concept_answers_its_bare_name(pictures):
    bare = [caption for caption in pictures.captions if caption.group == "bare names"]
    assert len(bare) == len(pictures.captions) // 2
    assert {caption.text for caption in bare} == {concept.name for concept in CONCEPTS}
    assert all(caption.background is None for caption in bare)


def test_the_other_half_goes_through_all_grounds():
    named = [subject.named for subject in subjects(CONCEPTS, 0, 48)][24:]
    assert set(named) == set(COLOURS)


def test_pairs_that_training_leaves_out_are_a_group_of_their_own(pictures):
    for caption in pictures.captions:
        if caption.background is None:
            continue
        held_out = is_held_out(pictures.names[caption.label], caption.background)
        assert (caption.group == "held-out pairs") == held_out
    asked = ask_each(pictures.captions)
    held_out = [q.caption.text for q in asked if q.caption.group == "held-out pairs"]
    assert held_out == ["a rocket on a pink background"]


def test_the_same_pictures_are_drawn_again(tmp_path, pictures):
    artwork = [Image.new("RGBA", (64, 64), (200, 30 * n, 0, 255)) for n in range(len(CONCEPTS))]
    write_pictures(tmp_path, CONCEPTS, artwork, 48, lambda done: None)
    assert read_pictures(tmp_path, 64, lambda done, total: None).digest() == pictures.digest()
