"""Who is in the next step: one object without I/O, so that a simulation can drive it too."""

from collections.abc import Hashable, Sequence
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """What the choice looks at.

    Attributes:
        key: jobs of equal keys can share a step.
        row_count: rows that the job takes; they never part.
        turn: number of the step that the job was last in, or that ran when it came.
    """

    @property
    def key(self) -> Hashable: ...
    @property
    def row_count(self) -> int: ...
    @property
    def turn(self) -> int: ...


C = TypeVar("C", bound=Candidate)


class RoundRobin:
    """Takes turns: whoever has waited longest is in, with as many others of its key as fit.

    A newcomer counts as served when it comes, so a stream of newcomers cannot starve anyone.

    Args:
        row_limit: most rows of a step; every job's rows must fit.
    """

    def __init__(self, row_limit: int) -> None:
        self.row_limit = row_limit

    def pick(self, candidates: Sequence[C]) -> list[C]:
        """Returns the jobs of the next step, longest waiting first.

        Args:
            candidates: at least one, in the order of their arrival.
        """
        # Sorting keeps the order of arrival among equals.
        waiting = sorted(candidates, key=lambda candidate: candidate.turn)
        chosen: list[C] = []
        row_count = 0
        for candidate in waiting:
            if candidate.key != waiting[0].key:
                continue
            if row_count + candidate.row_count <= self.row_limit:
                chosen.append(candidate)
                row_count += candidate.row_count
        return chosen
