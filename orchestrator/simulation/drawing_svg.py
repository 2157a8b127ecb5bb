"""A timeline as SVG: small, readable in light and in dark, with a word on each box."""

from xml.sax.saxutils import escape, quoteattr

from .drawing_scale import AXIS_PX, LANE_PX, LEFT_PX, RIGHT_PX, Scale, word
from .timeline import Box, Timeline

_STYLE = """
svg { background: #ffffff; font: 13px system-ui, sans-serif }
text { fill: #1c2230 } .title { font-weight: 600; font-size: 14px } .faint { fill: #626b7d }
.lane { fill: #eef1f6 } .tick { stroke: #d6dbe5 } .task { stroke: #ffffff; stroke-width: 1 }
.word { fill: #ffffff; font-size: 12px; text-anchor: middle; pointer-events: none }
@media (prefers-color-scheme: dark) {
svg { background: #14171d } text { fill: #e5e9f0 } .faint { fill: #98a2b3 }
.lane { fill: #1e232c } .tick { stroke: #333b48 } .task { stroke: #14171d } .word { fill: #ffffff }
}"""


def draw_svg(timeline: Timeline) -> str:
    """Returns the drawing as an SVG document; each box is a `rect` of class `task`."""
    scale = Scale(timeline)
    width, height = scale.width_px, f"{scale.height_px:g}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">',
        f"<style>{_STYLE}</style>",
        *_legend(timeline),
        *_axis(scale),
    ]
    for panel, top in scale.panels():
        parts.append(f'<text class="title" x="16" y="{top + 22:g}">{escape(panel.title)}</text>')
        for number, name in enumerate(panel.lanes):
            parts += _lane(scale, scale.lane_y(top, number), name)
        for box in panel.boxes:
            parts += _box(scale, top, box)
    return "\n".join([*parts, "</svg>", ""])


def _legend(timeline: Timeline) -> list[str]:
    parts: list[str] = []
    x = 16.0
    for name, colour in timeline.legend:
        parts.append(f'<rect x="{x:g}" y="16" width="14" height="14" rx="3" fill="{colour}"/>')
        parts.append(f'<text x="{x + 20:g}" y="28">{escape(name)}</text>')
        x += 40 + 7.5 * len(name)
    return parts


def _axis(scale: Scale) -> list[str]:
    bottom = scale.height_px - AXIS_PX
    parts: list[str] = []
    for seconds in scale.ticks():
        x = f"{scale.x(seconds):.1f}"
        for panel, top in scale.panels():
            ends = f'y1="{scale.lane_y(top, 0) - 3:g}" y2="{top + scale.panel_px(panel):g}"'
            parts.append(f'<line class="tick" x1="{x}" x2="{x}" {ends}/>')
        parts.append(
            f'<text class="faint" x="{x}" y="{bottom + 18:g}" text-anchor="middle">'
            f"{seconds:.3g} s</text>"
        )
    return parts


def _lane(scale: Scale, y: float, name: str) -> list[str]:
    width = scale.width_px - LEFT_PX - RIGHT_PX
    return [
        f'<text class="faint" x="16" y="{y + 22:g}">{escape(name)}</text>',
        f'<rect class="lane" x="{LEFT_PX}" y="{y:g}" width="{width}" height="{LANE_PX}"/>',
    ]


def _box(scale: Scale, top: float, box: Box) -> list[str]:
    x, y, width, height = scale.box(top, box)
    parts = [
        f'<rect class="task" x="{x:.2f}" y="{y:g}" width="{width:.2f}" height="{height}" rx="3" '
        f"fill={quoteattr(box.colour)}><title>{escape(box.text)}</title></rect>"
    ]
    if text := word(box, width):
        middle = f'x="{x + width / 2:.2f}" y="{y + 21:g}"'
        parts.append(f'<text class="word" {middle}>{escape(text)}</text>')
    return parts
