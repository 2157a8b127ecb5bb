"""Draws runs into a file, by the file's name."""

from collections.abc import Sequence
from pathlib import Path

from ...services.runtime.errors import FieldViolation, InvalidRequest
from .drawing_html import draw_html
from .drawing_png import write_png
from .drawing_svg import draw_svg
from .simulation import Run
from .timeline import make_timeline

KINDS = (".svg", ".png", ".html")


def check_drawing(path: Path) -> None:
    """Returns if a file can be drawn into.

    Raises:
        InvalidRequest: its kind is not known, or its folder is not there.
    """
    if path.suffix.lower() not in KINDS:
        raise _bad(path, f"must end in {', '.join(KINDS)}")
    if not path.parent.is_dir():
        raise _bad(path, "is in a folder that is not there; make it first")


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draws runs that were recorded.

    Raises:
        InvalidRequest: the file's kind is not known, or its folder is not there.
    """
    check_drawing(path)
    timeline, kind = make_timeline(runs), path.suffix.lower()
    if kind == ".png":
        write_png(timeline, path)
    else:
        path.write_text(draw_svg(timeline) if kind == ".svg" else draw_html(timeline), "utf-8")


def _bad(path: Path, text: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(f"drawing {path}", text)])
