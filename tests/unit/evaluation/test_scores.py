"""Retrieval on a toy, the grounds, and intervals that a seed repeats."""

import numpy as np
import pytest

from sangsang.services.diffusion.evaluation.backgrounds import Backgrounds
from sangsang.services.diffusion.evaluation.judge import Seen
from sangsang.services.diffusion.evaluation.questions import Question
from sangsang.services.diffusion.evaluation.real_pictures import Caption
from sangsang.services.diffusion.evaluation.scores import mark, ratio, share

BLACK, WHITE = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 250, np.uint8)


def ask(label, background=None):
    return Question(Caption("", label, "all", background), 0)


@pytest.fixture
def grounds():
    captions = [ask(0, ground).caption for ground in ("black", "white", None)]
    return Backgrounds.learn(np.stack([BLACK, WHITE, WHITE]), captions)


def test_first_and_among_the_first_five(grounds):
    questions = [ask(3), ask(4), ask(9)]
    best = np.array([[3, 0, 1, 2, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]])
    answers = mark(questions, Seen(np.zeros((3, 2)), best), np.stack([BLACK] * 3), grounds)
    score = answers.score()
    assert score.questions == 3
    assert score.top1.value == pytest.approx(1 / 3)
    assert score.top5.value == pytest.approx(2 / 3)
    assert score.background is None


def test_the_ground_counts_only_where_it_is_asked_for(grounds):
    questions = [ask(0, "black"), ask(0, "white"), ask(0)]
    seen = Seen(np.zeros((3, 2)), np.zeros((3, 1), int))
    score = mark(questions, seen, np.stack([BLACK, BLACK, BLACK]), grounds).score()
    assert score.background is not None
    assert score.background.value == 0.5


def test_the_ground_is_read_from_the_edge(grounds):
    picture = WHITE.copy()
    picture[1:-1, 1:-1] = 0
    assert grounds.name(picture) == "white"


def test_a_group_is_scored_alone(grounds):
    questions = [ask(0), ask(0)]
    seen = Seen(np.zeros((2, 2)), np.array([[0], [1]]))
    answers = mark(questions, seen, np.stack([BLACK] * 2), grounds)
    assert answers.of(np.array([True, False])).score().top1.value == 1


def test_the_seed_repeats_the_interval():
    hits = np.random.default_rng(0).random(200) < 0.8
    first = share(hits, seed=1)
    assert first == share(hits, seed=1)
    assert first != share(hits, seed=2)
    assert first.low < first.value < first.high
    # The normal approximation: 1.96 sqrt(p (1 - p) / n).
    half = 1.96 * np.sqrt(first.value * (1 - first.value) / 200)
    assert first.high - first.low == pytest.approx(2 * half, rel=0.15)


def test_nothing_wrong_leaves_no_doubt():
    assert share(np.ones(10, bool)).low == 1


def test_ratios_are_drawn_in_pairs():
    hits = np.random.default_rng(0).random(100) < 0.7
    same = ratio(hits, hits)
    assert same is not None
    assert (same.value, same.low, same.high) == (1, 1, 1)
    half = ratio(hits & (np.arange(100) % 2 == 0), hits)
    assert half is not None
    assert half.low < half.value < half.high < 1


def test_no_ratio_to_nothing():
    assert ratio(np.ones(5, bool), np.zeros(5, bool)) is None
