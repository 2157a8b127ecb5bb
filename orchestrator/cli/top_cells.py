"""How one figure looks in a terminal."""

import math
from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from ..scheduling.work import STAGES

# In the order of the flow.
STAGE_COLOURS = {
    "text_encoding": "cyan",
    "preprocessing": "blue",
    "diffusion": "magenta",
    "postprocessing": "yellow",
}


def table(*heads: str) -> Table:
    """Returns an empty table without lines; heads that begin with `>` are of columns of numbers."""
    made = Table(box=None, expand=True, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for head in heads:
        name = head.removeprefix(">")
        made.add_column(name, justify="left" if name == head else "right", no_wrap=True)
    return made


def nothing() -> Text:
    """Returns what stands where there is nothing to say."""
    return Text("-", style="bright_black")


def words(name: str) -> str:
    """Returns the name of a stage as people write it."""
    return name.replace("_", " ")


def bar(shares: Mapping[str, float], cell_count: int) -> Text:
    """Returns a bar in which each stage has its part of the whole, 1."""
    made, filled, whole = Text(), 0, 0.0
    for stage in STAGES:
        whole += shares.get(stage, 0.0)
        up_to = max(filled, min(cell_count, math.floor(whole * cell_count + 0.5)))
        made.append("█" * (up_to - filled), style=STAGE_COLOURS[stage])
        filled = up_to
    made.append("░" * (cell_count - filled), style="bright_black")
    return made


def percent(share: float | None) -> Text:
    """Returns a share in per cent."""
    return nothing() if share is None else Text(f"{share:.0%}")


def count(number: float, alarm: str = "") -> Text:
    """Returns a number of things, in a style that alarms if there are some."""
    return Text(f"{number:.0f}", style=alarm) if number else nothing()


def rate(number: float, seconds: float) -> Text:
    """Returns how many a second some things are."""
    if not number or seconds <= 0:
        return nothing()
    per_s = number / seconds
    return Text(f"{per_s:.2f}" if per_s < 10 else f"{per_s:.0f}")


def duration(seconds: float | None) -> Text:
    """Returns a duration of milliseconds or seconds."""
    if seconds is None:
        return nothing()
    if seconds < 0.01:
        return Text(f"{seconds * 1000:.1f} ms")
    return Text(f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s")


def span(seconds: float) -> str:
    """Returns a stretch of time of seconds to hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
