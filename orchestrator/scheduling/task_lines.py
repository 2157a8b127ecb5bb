"""Where tasks wait: one fair line for each model, and another for tasks that start a picture."""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from .fair_line import FairLine
from .work import STAGES, Model, Phase, StageName, Task

Lines: TypeAlias = dict[Model, FairLine[Task]]


class TaskLines:
    """The lines of all models.

    Attributes:
        ready: by stage and model, the lines in which pictures wait that have started.
        starting: the same of pictures that have not.

    Args:
        weights: share of each tier against the others.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.ready: dict[StageName, Lines] = {stage: {} for stage in STAGES}
        self.starting: dict[StageName, Lines] = {stage: {} for stage in STAGES}
        self._weights = weights
        # Those in which nothing waits too: they know who has had what.
        self._all: dict[tuple[bool, Model], FairLine[Task]] = {}

    def push(self, task: Task, urgency: float) -> None:
        """Adds a task to its line."""
        line = self._line(task)
        line.push(task, tier=task.work.tier, tenant=task.work.tenant, urgency=urgency)
        self._open_lines(task).setdefault(task.model, line)

    def remove(self, task: Task) -> None:
        """Takes out a task that is in its line."""
        line = self._line(task)
        line.remove(task)
        self._close_if_empty(task, line)

    def pop(self, task: Task, cost: float) -> None:
        """Takes out a task that is a head of its line, and charges its tier for it."""
        line = self._line(task)
        line.pop(task.work.tier, cost)
        self._close_if_empty(task, line)

    def waiting(self) -> Iterator[Model]:
        """Yields the models for which pictures wait that have started."""
        for lines in self.ready.values():
            yield from lines

    def _close_if_empty(self, task: Task, line: FairLine[Task]) -> None:
        if not len(line):
            del self._open_lines(task)[task.model]

    def _open_lines(self, task: Task) -> Lines:
        starts = task.picture.phase is Phase.WAITING
        return (self.starting if starts else self.ready)[task.stage]

    def _line(self, task: Task) -> FairLine[Task]:
        key = task.picture.phase is Phase.WAITING, task.model
        line = self._all.get(key)
        if line is None:
            line = self._all[key] = FairLine(self._weights)
        return line
