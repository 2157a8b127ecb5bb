"""Which student learns from which teacher: the step counts on the way down.

Salimans & Ho (2022) halve the steps again and again; Meng et al. (2023) first fold guidance into a
single pass. Each is one `Stage`: a student whose every step does what its teacher does in a few.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Literal

PRESETS: dict[str, tuple[int, ...]] = {"talk": (70, 35, 15, 3)}

Method = Literal["progressive", "paths", "consistency"]
WeightForm = Literal["full", "low_rank"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One student and its teacher.

    Attributes:
        teacher_step_count: steps that the teacher was made for.
        student_step_count: steps that the student learns to need.
        guided: whether the teacher is the original model with guidance, two passes a step; later
            teachers are students themselves and take one.
        method: what the student is asked: where a few of its teacher's steps lead, on the way or on
            paths solved before, or where all do.
        weights: whether the student may change whole matrices or only by a low rank.
        last: whether its student is what will be served: it practises on just the timesteps that
            serving visits, where earlier ones practise everywhere.
    """

    teacher_step_count: int
    student_step_count: int
    guided: bool
    method: Method = "progressive"
    weights: WeightForm = "full"
    last: bool = False

    @property
    def teacher_steps_per_step(self) -> int:
        """Teacher's steps that one step of the student replaces, rounded up."""
        return -(-self.teacher_step_count // self.student_step_count)

    @property
    def name(self) -> str:
        """What files and logs call it, e.g. `18-to-9`, `35-guided`, `3-low-rank`."""
        if self.weights == "low_rank":
            return f"{self.student_step_count}-low-rank"
        if self.method != "progressive":
            return f"{self.teacher_step_count}-{self.method}-{self.student_step_count}"
        if self.teacher_step_count == self.student_step_count:
            return f"{self.student_step_count}-guided"
        return f"{self.teacher_step_count}-to-{self.student_step_count}"


def halvings(from_step_count: int, to_step_count: int) -> tuple[int, ...]:
    """Returns the step counts of a progression, e.g. 35, 18, 9, 5, 3.

    Raises:
        ValueError: the counts do not fall, or are below 1.
    """
    counts = [from_step_count]
    while counts[-1] > to_step_count:
        counts.append(max(to_step_count, -(-counts[-1] // 2)))
    return checked(tuple(counts))


def checked(counts: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the step counts if a progression can be made of them.

    Raises:
        ValueError: they do not fall strictly, or end below 1.
    """
    falling = all(a > b for a, b in itertools.pairwise(counts))
    if not counts or not falling or counts[-1] < 1:
        raise ValueError(f"step counts must fall, down to 1 at the least: {counts}")
    return counts


def stages(
    counts: tuple[int, ...], *, low_rank: bool, method: Method = "progressive"
) -> tuple[Stage, ...]:
    """Returns the stages of a progression in their order.

    Args:
        counts: step counts from the teacher's to the student's.
        low_rank: whether the last student is then factored and taught once more as a low-rank
            delta of the original model.
        method: of all stages; `paths` and `consistency` go from the first count to the last in one.
    """
    first, final = counts[0], counts[-1]
    if method != "progressive":
        found = [Stage(first, final, guided=True, method=method, last=True)]
    else:
        found = [Stage(first, first, guided=True, last=len(counts) == 1)]
        for before, after in itertools.pairwise(counts):
            found.append(Stage(before, after, guided=False, last=after == final))
    if low_rank:
        found.append(replace(found[-1], weights="low_rank"))
    return tuple(found)
