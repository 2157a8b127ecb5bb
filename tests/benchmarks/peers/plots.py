"""The figures as pictures, beside their CSV."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .aims import OURS
from .outcomes import TIERS
from .results import Figures
from .schedule import ABLATIONS
from .tables import Kind, open_loads, title

_INK = "#333333"
_OURS_COLOUR = "#c0392b"
_COLOURS = {
    "triton-ensemble": "#2471a3",
    "triton-sequence": "#7fb3d5",
    "litserve-continuous": "#117a65",
    "litserve-batched": "#7dcea0",
}


def draw(figures: Figures, folder: Path) -> list[Path]:
    """Returns the PNG files that it writes: peak rates, goodput over load, and latencies."""
    paths = []
    for kind in figures.kinds():
        label = f"{kind[0]}-{kind[1]}"
        for name, plot in _PLOTS.items():
            path = folder / f"{name}-{label}.png"
            if plot(figures, kind, path):
                paths.append(path)
    return paths


def peak(figures: Figures, kind: Kind, path: Path) -> bool:
    """Draws pictures a second with eight requests at a time; False where none were measured."""
    names = figures.contenders(kind, "peak")
    if not names:
        return False
    rates = {name: figures.mean(kind, name, "peak", "throughput_per_s") or 0.0 for name in names}
    axes = _axes(1, 0.35 * len(names) + 1.0)[0]
    colours = [colour(name) for name in rates]
    bars = axes.barh(list(rates), list(rates.values()), color=colours)
    axes.bar_label(bars, fmt="%.2f", padding=3, color=_INK)
    axes.invert_yaxis()
    axes.set_xlabel("pictures per second, 70 % Free and 30 % Pro, as fast as it goes")
    axes.set_title(title(kind))
    _save(axes, path)
    return True


def goodput(figures: Figures, kind: Kind, path: Path) -> bool:
    """Draws the share in time of each tier, and goodput, over load."""
    loads = open_loads(figures, kind)
    if len(loads) < 2:
        return False
    shares = [float(load.removeprefix("open-")) for load in loads]
    panels = [
        ("goodput_per_s", "all", "goodput, pictures/s"),
        *(("in_time_share", tier, f"share of {tier.capitalize()} in time") for tier in TIERS),
    ]
    all_axes = _axes(len(panels), 3.6)
    for axes, (metric, tier, text) in zip(all_axes, panels, strict=True):
        for name in _with_loads(figures, kind, loads):
            values = [figures.mean(kind, name, load, metric, tier) for load in loads]
            axes.plot(shares, values, marker="o", color=colour(name), label=name)
        axes.set_title(text)
        axes.set_xlabel("load, of serial capacity")
        axes.set_ylim(bottom=0)
    all_axes[0].legend(fontsize=7)
    _save(all_axes[0], path)
    return True


def latency(figures: Figures, kind: Kind, path: Path) -> bool:
    """Draws p50, p95 and p99 of each tier at 0.8 of capacity."""
    load = "open-0.8"
    names = figures.contenders(kind, load)
    if not names:
        return False
    all_axes = _axes(len(TIERS), 3.6)
    for axes, tier in zip(all_axes, TIERS, strict=True):
        for name in names:
            metrics = ("p50_ms", "p95_ms", "p99_ms")
            values = [figures.mean(kind, name, load, metric, tier) for metric in metrics]
            axes.plot(["p50", "p95", "p99"], values, marker="o", color=colour(name), label=name)
        axes.set_title(f"{tier.capitalize()} at 0.8 of capacity, ms")
        axes.set_ylim(bottom=0)
    all_axes[0].legend(fontsize=7)
    _save(all_axes[0], path)
    return True


def colour(name: str) -> str:
    """Returns the colour of a contender: ours red, its ablations pale, offline ways grey."""
    if name == OURS:
        return _OURS_COLOUR
    if name in ABLATIONS:
        return "#e6b0aa"
    return _COLOURS.get(name, "#aaaaaa")


def _with_loads(figures: Figures, kind: Kind, loads: list[str]) -> list[str]:
    """Returns who was measured under every load."""
    return [
        name
        for name in figures.contenders(kind)
        if all(figures.values(kind, name, load, "goodput_per_s") for load in loads)
    ]


def _axes(count: int, height: float) -> list[Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    _, axes = pyplot.subplots(1, count, figsize=(max(4.2 * count, 8.0), height), squeeze=False)
    return list(axes[0])


def _save(axes: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure = axes.figure
    figure.tight_layout()
    # Without the version of matplotlib, so that equal figures are equal files.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


_PLOTS: dict[str, Callable[[Figures, Kind, Path], bool]] = {
    "peak": peak,
    "goodput": goodput,
    "latency": latency,
}
