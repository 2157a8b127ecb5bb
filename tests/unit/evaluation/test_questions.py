"""The same questions whatever the configuration, and fewer of the same for a quick look."""

from sangsang.services.diffusion.evaluation.questions import (
    ask_again,
    ask_each,
    ask_for_figure,
    spread,
)
from sangsang.services.diffusion.evaluation.real_pictures import Caption

BARE = [Caption(f"thing {label}", label, "bare", None) for label in range(10)]
PAIRS = [
    Caption(f"thing {label} on {ground}", label, "pairs", ground)
    for label in range(10)
    for ground in ("red", "blue", "red")
]
CAPTIONS = [*BARE, *BARE, *PAIRS]


def test_each_group_asks_for_each_name_once():
    asked = ask_each(CAPTIONS)
    for group in ("bare", "pairs"):
        labels = [q.caption.label for q in asked if q.caption.group == group]
        assert labels == list(range(10))
    assert len({q.seed for q in asked}) == len(asked)


def test_a_group_goes_through_its_prompts():
    grounds = {q.caption.background for q in ask_each(PAIRS)}
    assert grounds == {"red", "blue"}


def test_fewer_questions_are_some_of_the_same():
    few = ask_each(CAPTIONS, limit=3)
    assert len(few) == 6
    assert set(few) < set(ask_each(CAPTIONS))


def test_asking_again_changes_the_seed_alone():
    asked = ask_again(CAPTIONS, prompts=2, seeds=3)
    texts = [q.caption.text for q in asked]
    assert texts == ["thing 0"] * 3 + ["thing 5"] * 3
    assert len({q.seed for q in asked}) == 6


def test_the_figure_shows_any_prompt():
    shown = ask_for_figure(CAPTIONS, ["thing 2", "something new"])
    assert [q.caption.text for q in shown] == ["thing 2", "something new"]
    assert len(ask_for_figure(CAPTIONS, [])) == 6


def test_spread():
    assert spread([0, 1, 2, 3, 4, 5], 3) == [0, 2, 4]
    assert spread([0, 1], 5) == [0, 1]
    assert spread([0, 1], None) == [0, 1]
