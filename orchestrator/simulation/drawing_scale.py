"""Where things are in a picture of a timeline, in pixels: the same for SVG and PNG."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from .timeline import Box, Panel, Timeline

LEFT_PX, RIGHT_PX, TOP_PX = 130, 24, 44
LANE_PX, GAP_PX = 34, 5
TITLE_PX, AXIS_PX = 34, 30
_TICK_COUNT = 10


@dataclass(frozen=True, slots=True)
class Scale:
    """A picture of a width."""

    timeline: Timeline
    width_px: int = 1200

    @property
    def height_px(self) -> float:
        """Of the whole picture."""
        return TOP_PX + sum(self.panel_px(panel) for panel in self.timeline.panels) + AXIS_PX

    @staticmethod
    def panel_px(panel: Panel) -> float:
        """Returns the height of a panel."""
        return TITLE_PX + len(panel.lanes) * (LANE_PX + GAP_PX)

    def panels(self) -> Iterator[tuple[Panel, float]]:
        """Yields the panels with the place of their titles."""
        top = float(TOP_PX)
        for panel in self.timeline.panels:
            yield panel, top
            top += self.panel_px(panel)

    def x(self, seconds: float) -> float:
        """Returns the place of a time."""
        inner = self.width_px - LEFT_PX - RIGHT_PX
        return LEFT_PX + inner * seconds / (self.timeline.end_s or 1.0)

    @staticmethod
    def lane_y(panel_top: float, lane: int) -> float:
        """Returns the upper edge of a lane."""
        return panel_top + TITLE_PX + lane * (LANE_PX + GAP_PX)

    def box(self, panel_top: float, box: Box) -> tuple[float, float, float, float]:
        """Returns left, top, width and height of a box."""
        left, right = self.x(box.start_s), self.x(box.end_s)
        return left, self.lane_y(panel_top, box.lane), max(right - left, 0.5), LANE_PX

    def ticks(self) -> list[float]:
        """Returns round times across the picture."""
        end_s = self.timeline.end_s or 1.0
        rough = end_s / _TICK_COUNT
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * one for one in (1, 2, 5, 10) if power * one >= rough)
        return [number * step for number in range(int(end_s / step + 1e-9) + 1)]


def word(box: Box, width_px: float) -> str:
    """Returns what is written into a box of a width: its label, its first letter, or nothing."""
    for text in (box.label, box.label[:1].upper()):
        # A generous width of a letter.
        if len(text) * 7.2 + 6 <= width_px:
            return text
    return ""
