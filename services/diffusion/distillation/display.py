"""Progress on a terminal; a line now and then where there is none."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .trainer import Standing

_LINE_EVERY = 50


class Display:
    """Shows how far things are.

    Args:
        quiet: whether to show nothing: in every process but the main one.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(quiet=quiet, file=sys.stderr)

    def note(self, text: str) -> None:
        """Prints a line."""
        self._console.print(text, highlight=False)

    @contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Yields what to tell (done, total) to."""
        with self._bar("{task.fields[status]}") as bar:
            task = bar.add_task(what, total=None, status="")
            yield lambda done, total: bar.update(task, completed=done, total=total)

    @contextmanager
    def training(self, stage: str) -> Iterator[Callable[[Standing], None]]:
        """Yields what to tell a stage's standing to."""
        with self._bar("{task.fields[status]}") as bar:
            task = bar.add_task(stage, total=None, status="")

            def show(standing: Standing) -> None:
                status = (
                    f"loss {standing.loss:.4f}  rate {standing.learning_rate:.1e}  "
                    f"{standing.rows_per_s:.0f} rows/s"
                )
                bar.update(
                    task, completed=standing.update, total=standing.update_count, status=status
                )
                if not self._console.is_terminal and standing.update % _LINE_EVERY == 0:
                    update = f"{standing.update}/{standing.update_count}"
                    self._console.print(f"{stage} {update}  {status}")

            yield show

    def _bar(self, status: str) -> Progress:
        return Progress(
            TextColumn("{task.description:>14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn(status),
            console=self._console,
            disable=not self._console.is_terminal,
        )
