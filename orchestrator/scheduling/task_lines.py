"""Where tasks wait: one fair line for each model, and another for tasks that start a picture."""

from collections.abc import Iterator, Mapping

from .fair_line import FairLine
from .work import Model, Phase, StageName, Task


class TaskLines:
    """The lines of all models.

    Args:
        weights: share of each tier against the others.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._starting: dict[StageName, dict[Model, FairLine[Task]]] = {}
        self._ready: dict[StageName, dict[Model, FairLine[Task]]] = {}

    def of(self, task: Task) -> FairLine[Task]:
        """Returns the line of a task."""
        starts = task.picture.phase is Phase.WAITING
        lines = (self._starting if starts else self._ready).setdefault(task.stage, {})
        if (line := lines.get(task.model)) is None:
            line = lines[task.model] = FairLine(self._weights)
        return line

    def ready(self, stage: StageName) -> list[tuple[Model, FairLine[Task]]]:
        """Returns the lines of a stage in which pictures wait that have started."""
        return [one for one in self._ready.get(stage, {}).items() if len(one[1])]

    def starting(self, stage: StageName) -> list[tuple[Model, FairLine[Task]]]:
        """Returns the lines of a stage in which pictures wait that have not."""
        return [one for one in self._starting.get(stage, {}).items() if len(one[1])]

    def all_ready(self) -> Iterator[tuple[Model, FairLine[Task]]]:
        """Yields the lines in which pictures wait that have started."""
        for stage in self._ready:
            yield from self.ready(stage)

    def all_starting(self) -> Iterator[tuple[Model, FairLine[Task]]]:
        """Yields the lines in which pictures wait that have not."""
        for stage in self._starting:
            yield from self.starting(stage)
