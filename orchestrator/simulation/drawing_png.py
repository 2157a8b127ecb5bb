"""A timeline as PNG, where SVG is not at home. Pillow is a base dependency."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .drawing_scale import AXIS_PX, LANE_PX, LEFT_PX, RIGHT_PX, Scale, word
from .timeline import Timeline

_PAPER, _INK, _FAINT, _LANE, _TICK = "#ffffff", "#1c2230", "#626b7d", "#eef1f6", "#d6dbe5"
# Drawn twice as large, for screens of many dots.
_ZOOM = 2


def write_png(timeline: Timeline, path: Path) -> None:
    """Writes the drawing to a file."""
    scale = Scale(timeline)
    size = (scale.width_px * _ZOOM, int(scale.height_px * _ZOOM))
    image = Image.new("RGB", size, _PAPER)
    canvas = _Canvas(ImageDraw.Draw(image))
    x = 16.0
    for name, colour in timeline.legend:
        canvas.box(x, 16, 14, 14, colour)
        canvas.text(x + 20, 23, name, _INK)
        x += 40 + 7.5 * len(name)
    bottom = scale.height_px - AXIS_PX
    for seconds in scale.ticks():
        for panel, top in scale.panels():
            y = scale.lane_y(top, 0) - 3
            canvas.box(scale.x(seconds), y, 0.5, top + scale.panel_px(panel) - y, _TICK)
        canvas.text(scale.x(seconds), bottom + 14, f"{seconds:.3g} s", _FAINT, anchor="mm")
    for panel, top in scale.panels():
        canvas.text(16, top + 18, panel.title, _INK, size=14)
        for number, name in enumerate(panel.lanes):
            y = scale.lane_y(top, number)
            canvas.text(16, y + LANE_PX / 2, name, _FAINT)
            canvas.box(LEFT_PX, y, scale.width_px - LEFT_PX - RIGHT_PX, LANE_PX, _LANE)
        for box in panel.boxes:
            x, y, width, height = scale.box(top, box)
            canvas.box(x, y, width, height, box.colour, edge=_PAPER)
            canvas.text(x + width / 2, y + height / 2, word(box, width), "#ffffff", anchor="mm")
    image.save(path, "PNG")


class _Canvas:
    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self._draw = draw

    def box(
        self, x: float, y: float, width: float, height: float, fill: str, edge: str | None = None
    ) -> None:
        corners = [value * _ZOOM for value in (x, y, x + width, y + height)]
        self._draw.rectangle(corners, fill=fill, outline=edge)

    def text(
        self, x: float, y: float, text: str, fill: str, *, anchor: str = "lm", size: int = 13
    ) -> None:
        font = ImageFont.load_default(size * _ZOOM)
        self._draw.text((x * _ZOOM, y * _ZOOM), text, fill=fill, anchor=anchor, font=font)
