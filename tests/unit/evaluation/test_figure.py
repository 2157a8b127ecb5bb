"""The figure's layout: prompts down, configurations across, every tile in its place."""

import numpy as np
import pytest

from sangsang.services.diffusion.evaluation.configurations import Configuration
from sangsang.services.diffusion.evaluation.figure import Layout, draw_figure, wrapped
from sangsang.services.diffusion.evaluation.questions import Question
from sangsang.services.diffusion.evaluation.real_pictures import Caption
from sangsang.services.diffusion.evaluation.results import Comparison, Outcome, Ratios, RealFigures
from sangsang.services.diffusion.evaluation.scores import Estimate, Score

PROMPTS = ("a rocket on a yellow background", "cat")
SURE = Estimate(1.0, 1.0, 1.0)


def outcome(name, tones):
    tiles = np.stack([np.full((16, 16, 3), tone, np.uint8) for tone in tones])
    score = Score(2, SURE, SURE, None)
    ratios = Ratios(1.0, 1.0, None, 1.0, None)
    configuration = Configuration(name, 3, 1.0)
    return Outcome(configuration, score, {}, 1, 0, 1, 3, 0.1, ratios, (), tiles)


@pytest.fixture
def comparison():
    questions = tuple(Question(Caption(text, 0, "all", None), 0) for text in PROMPTS)
    real = RealFigures(8, 2, SURE, SURE, 1.0, 0.0, 4, 4, None)
    outcomes = (outcome("pro", (10, 20)), outcome("pro at 3", (30, 40)), outcome("free", (50, 60)))
    return Comparison(questions, questions, 16, real, outcomes)


def test_every_tile_is_in_its_place(comparison):
    sheet, layout = draw_figure(comparison), Layout(2, 3)
    assert sheet.size == layout.size
    for column, tones in enumerate(((10, 20), (30, 40), (50, 60))):
        for row, tone in enumerate(tones):
            left, top, right, bottom = layout.tile(row, column)
            inside = np.asarray(sheet)[top:bottom, left:right]
            assert (inside == tone).all(), (row, column)


def test_tiles_neither_touch_nor_leave_the_sheet():
    layout = Layout(3, 4)
    width, height = layout.size
    assert layout.tile(0, 0)[2] < layout.tile(0, 1)[0]
    assert layout.tile(0, 0)[3] < layout.tile(1, 0)[1]
    assert layout.tile(2, 3)[2] < width
    assert layout.tile(2, 3)[3] < height


def test_titles_and_prompts_are_written(comparison):
    pixels = np.asarray(draw_figure(comparison))
    left, top, right, bottom = Layout(2, 3).tile(0, 1)
    assert pixels[:top, left:right].min() < 100
    assert pixels[top:bottom, : Layout(2, 3).tile(0, 0)[0] - 1].min() < 100


def test_long_prompts_are_wrapped():
    from PIL import ImageFont

    font = ImageFont.load_default(14)
    lines = wrapped(PROMPTS[0].split(), font, 120).split("\n")
    assert len(lines) > 1
    assert all(font.getlength(line) <= 120 for line in lines)
