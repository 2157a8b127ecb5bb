"""The picture of a profile: time of a step, and time of a row, against the rows of a step."""

# pyright: reportMissingImports=false

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

from ...runtime.models.profile import ModelProfile


def draw_profile(profile: ModelProfile, title: str, path: Path) -> None:
    """Writes the picture as a PNG: a line for each size, and a ring where the batch is capped."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for step in profile.steps:
        rows = sorted(step.seconds)
        label = f"{step.width_px}x{step.height_px}"
        left.plot(rows, [1000 * step.seconds[n] for n in rows], marker=".", label=label)
        (line,) = right.plot(
            rows, [1000 * step.seconds[n] / n for n in rows], marker=".", label=label
        )
        limit = profile.row_limit(step.height_px, step.width_px)
        ring = (limit, 1000 * step.step_seconds(limit) / limit)
        right.plot(*ring, "o", markersize=12, fillstyle="none", color=line.get_color())
    for axes, what in ((left, "ms of a step"), (right, "ms of a row (ring: rows that pay)")):
        axes.set_xlabel("rows of the step")
        axes.set_ylabel(what)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
