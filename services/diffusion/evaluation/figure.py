"""The figure: a row for each prompt, a column for each configuration, the same seed along a row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .results import Comparison, Outcome

_TILE_PX, _GAP_PX = 128, 14
_HEADER_PX, _LABEL_PX = 62, 190
_TITLE_PX, _TEXT_PX, _SMALL_PX = 17, 14, 13
_INK, _FAINT, _PAPER = (25, 25, 30), (100, 100, 110), (255, 255, 255)

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things go, in px: the sheet, and the tiles by row and column."""

    row_count: int
    column_count: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sheet."""
        right, bottom = self.tile(self.row_count - 1, self.column_count - 1)[2:]
        return right + _GAP_PX, bottom + _GAP_PX

    def tile(self, row: int, column: int) -> Box:
        """Returns left, top, right, bottom of one picture."""
        left = _LABEL_PX + column * (_TILE_PX + _GAP_PX)
        top = _HEADER_PX + row * (_TILE_PX + _GAP_PX)
        return left, top, left + _TILE_PX, top + _TILE_PX


def draw_figure(comparison: Comparison) -> Image.Image:
    """Returns the figure, RGB."""
    prompts = [question.caption.text for question in comparison.figure]
    layout = Layout(len(prompts), len(comparison.outcomes))
    sheet = Image.new("RGB", layout.size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    for row, prompt in enumerate(prompts):
        _write_prompt(pen, prompt, layout.tile(row, 0))
    for column, outcome in enumerate(comparison.outcomes):
        _write_title(pen, outcome, layout.tile(0, column))
        for row, pixels in enumerate(outcome.tiles):
            box = layout.tile(row, column)
            sheet.paste(_tile(pixels), box[:2])
    return sheet


def wrapped(words: Sequence[str], font: ImageFont.FreeTypeFont, width_px: int) -> str:
    """Returns the words in lines that are no wider than they must be."""
    lines: list[str] = []
    for word in words:
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width_px:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def _write_title(pen: ImageDraw.ImageDraw, outcome: Outcome, below: Box) -> None:
    configuration = outcome.configuration
    middle = (below[0] + below[2]) // 2
    guidance = configuration.guidance_scale
    guided = f"guidance {guidance:g}" if guidance > 1 else "no guidance"
    lines = (
        (configuration.name, _TITLE_PX, _INK),
        (f"{configuration.step_count} steps, {guided}", _SMALL_PX, _FAINT),
        (f"{outcome.unet_evaluations:g} UNet evaluations", _SMALL_PX, _FAINT),
    )
    top = 4
    for text, size_px, ink in lines:
        pen.text((middle, top), text, ink, _fitting(text, size_px), anchor="ma")
        top += size_px + 3


def _write_prompt(pen: ImageDraw.ImageDraw, prompt: str, beside: Box) -> None:
    font = _font(_TEXT_PX)
    text = wrapped(prompt.split(), font, _LABEL_PX - 2 * _GAP_PX)
    place = (beside[0] - _GAP_PX, (beside[1] + beside[3]) // 2)
    pen.multiline_text(place, text, _INK, font, anchor="rm", align="right")


def _tile(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels).resize((_TILE_PX, _TILE_PX), Image.Resampling.LANCZOS)


def _fitting(text: str, size_px: int) -> ImageFont.FreeTypeFont:
    """Returns the font in which a title is no wider than its column, of at most this size."""
    width_px = _font(size_px).getlength(text)
    return _font(int(size_px * min(1.0, (_TILE_PX + _GAP_PX) / width_px)))


def _font(size_px: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size_px)
    # Without FreeType Pillow has one bitmap font and no sizes; its wheels all have it.
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
