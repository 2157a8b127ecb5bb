"""The traffic as bars: for each kind of operation unfused, fused, and the least there could be."""

# pyright: reportMissingImports=false

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

from .counting import Traffic

_UNITS = ((1e9, "GB"), (1e6, "MB"))
_BAR = 0.26
_SERIES = (
    ("unfused", "unfused_bytes", "#c44e52"),
    ("fused", "fused_bytes", "#4c72b0"),
    ("minimum", "least_bytes", "#b0b0b0"),
)


def draw_traffic(traffic: Traffic, title: str, path: Path) -> None:
    """Writes the chart as a PNG: a group of three bars for each kind, in GB or MB."""
    rows, total = traffic.rows, traffic.total
    unit, name = next(u for u in _UNITS if u is _UNITS[-1] or total.unfused_bytes >= u[0])
    height = 1.6 + 0.55 * len(rows)
    figure, axes = pyplot.subplots(figsize=(9, height), layout="constrained")
    for index, (label, field, colour) in enumerate(_SERIES):
        places = [row + (index - 1) * _BAR for row in range(len(rows))]
        values = [getattr(row, field) / unit for row in rows]
        bars = axes.barh(places, values, _BAR, label=label, color=colour)
        axes.bar_label(bars, [_said(value) for value in values], padding=3, fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{row.kind} ({row.count})" for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel(f"{name} to and from memory, one evaluation")
    sums = " / ".join(_said(getattr(total, field) / unit) for _, field, _ in _SERIES)
    axes.set_title(f"{title}: {sums} {name} unfused / fused / minimum", loc="left", fontsize=11)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _said(value: float) -> str:
    return f"{value:.2f}" if value >= 0.005 else "< 0.01"
