"""A timeline as one HTML file without anything from elsewhere: zoom, move, point at a box."""

import json
from importlib.resources import files

from .timeline import Timeline

_PLACE = "/*timeline*/null"


def draw_html(timeline: Timeline) -> str:
    """Returns the page. Its data are lists, because there may be many thousand boxes."""
    data = {
        "end": timeline.end_s,
        "legend": timeline.legend,
        "panels": [
            {
                "title": panel.title,
                "lanes": panel.lanes,
                "boxes": [
                    [box.lane, box.start_s, box.end_s, box.label, box.colour, box.text]
                    for box in panel.boxes
                ],
            }
            for panel in timeline.panels
        ],
    }
    # Inside a script element only a closing tag could end it.
    text = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    page = files(__package__ or "").joinpath("timeline.html").read_text("utf-8")
    return page.replace(_PLACE, text)
