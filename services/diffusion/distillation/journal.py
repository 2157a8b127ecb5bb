"""What a distillation leaves to look at: a CSV log, a loss plot, sample grids."""

# pyright: reportMissingImports=false

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from PIL import Image, ImageDraw

_LOG_NAME, _PLOT_NAME = "log.csv", "loss.png"
_TITLE_PX = 14
_SMOOTHED_LINES = 20


@dataclass(frozen=True, slots=True)
class LogLine:
    """The mean of a few updates.

    Attributes:
        stage: e.g. `18-to-9`.
        update: number of the last of them in its stage, from 1.
        loss: mean weighted squared error.
        learning_rate: of the last of them.
        rows_per_s: latents learnt from in a second, all processes together.
        elapsed_s: seconds of this stage so far, those before a restart included.
    """

    stage: str
    update: int
    loss: float
    learning_rate: float
    rows_per_s: float
    elapsed_s: float


class Journal:
    """The log and the plots of one distillation.

    Args:
        folder: where they lie; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._log = folder / _LOG_NAME

    def rewind(self, stage: str, update: int) -> None:
        """Forgets what was logged of a stage after an update that the run resumes from."""
        kept = [line for line in self.lines() if line.stage != stage or line.update <= update]
        with self._log.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(field.name for field in fields(LogLine))
            writer.writerows(asdict(line).values() for line in kept)

    def add(self, line: LogLine) -> None:
        """Appends a line."""
        with self._log.open("a", newline="") as file:
            csv.writer(file).writerow(asdict(line).values())

    def lines(self) -> list[LogLine]:
        """Returns everything logged so far; a line cut off by a kill is left out."""
        if not self._log.exists():
            return []
        with self._log.open(newline="") as file:
            rows = [row for row in csv.reader(file) if len(row) == len(fields(LogLine))][1:]
        return [LogLine(row[0], int(row[1]), *map(float, row[2:])) for row in rows]

    def plot(self) -> None:
        """Draws the losses of all stages, each smoothed over 20 lines."""
        lines = self.lines()
        figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
        for stage in dict.fromkeys(line.stage for line in lines):
            own = [line for line in lines if line.stage == stage]
            axes.plot([o.update for o in own], _smoothed([o.loss for o in own]), label=stage)
        axes.set(xlabel="update", ylabel="loss", yscale="log")
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(self._folder / _PLOT_NAME, dpi=120)
        pyplot.close(figure)

    def keep_samples(self, name: str, pictures: Sequence[Image.Image], title: str) -> None:
        """Writes `samples-NAME.png`: the pictures in two rows under a title."""
        width, height = pictures[0].size
        columns = -(-len(pictures) // 2)
        grid = Image.new("RGB", (columns * width, 2 * height + _TITLE_PX), "white")
        ImageDraw.Draw(grid).text((2, 1), title, "black")
        for index, picture in enumerate(pictures):
            place = (index % columns * width, index // columns * height + _TITLE_PX)
            grid.paste(picture, place)
        grid.save(self._folder / f"samples-{name}.png")


def _smoothed(values: list[float]) -> list[float]:
    means: list[float] = []
    for index in range(len(values)):
        window = values[max(0, index - _SMOOTHED_LINES + 1) : index + 1]
        means.append(sum(window) / len(window))
    return means
