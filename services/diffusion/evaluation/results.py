"""What an evaluation finds: plain values, for the table, the figure and `evaluation.json`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .configurations import Configuration
from .questions import Question
from .scores import Estimate, Score


@dataclass(frozen=True, slots=True)
class RealFigures:
    """What real pictures score: the best that a model could do.

    Attributes:
        pictures: how many there are.
        names: how many names they have.
        top1: share of held-out pictures that the judge names right.
        top5: the same, among its first five.
        frechet: distance between two sets of held-out pictures, as many in the one as are drawn.
        kernel: the same, KID.
        reference_count: pictures that distances are measured to.
        sample_count: pictures in the other set, the drawn ones or these.
        variety: mean feature distance between pictures of one prompt; None without such pictures.
    """

    pictures: int
    names: int
    top1: Estimate
    top5: Estimate
    frechet: float
    kernel: float
    reference_count: int
    sample_count: int
    variety: float | None


@dataclass(frozen=True, slots=True)
class Ratios:
    """A configuration against the reference: below 1 is less. None where the reference has none."""

    unet_evaluations: float
    cpu_s: float
    top1: Estimate | None
    frechet: float
    variety: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one configuration scores and costs.

    Attributes:
        configuration: how it draws.
        total: of all questions.
        groups: of each group of questions.
        frechet: Fréchet distance to real pictures; grows where samples are few.
        kernel: KID to real pictures.
        variety: mean feature distance between pictures of one prompt with other seeds.
        unet_evaluations: rows that the UNet evaluates for one picture.
        cpu_s: seconds of one thread for one picture, the median over batches.
        against_reference: the same as ratios.
        missed: "asked -> seen" for every picture that the judge takes for something else.
        tiles: the figure's pictures, [prompt, height, width, 3].
    """

    configuration: Configuration
    total: Score
    groups: dict[str, Score]
    frechet: float
    kernel: float
    variety: float
    unet_evaluations: float
    cpu_s: float
    against_reference: Ratios
    missed: tuple[str, ...]
    tiles: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The whole evaluation.

    Attributes:
        questions: what was asked of every configuration.
        figure: the rows of the figure.
        batch_size: pictures drawn at a time.
        real: what real pictures score.
        outcomes: what each configuration did, the reference first.
    """

    questions: tuple[Question, ...]
    figure: tuple[Question, ...]
    batch_size: int
    real: RealFigures
    outcomes: tuple[Outcome, ...]
