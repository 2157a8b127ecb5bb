"""Shares of right answers, with how far chance may have moved them.

Intervals are percentiles of 1,000 bootstrap resamples of the questions. All configurations are
asked the same questions, so ratios resample them in pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .backgrounds import Backgrounds
from .judge import Seen
from .questions import Question

Hits = NDArray[np.bool_]

_RESAMPLES = 1000
_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the 95 % interval around it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Score:
    """How a group of questions was answered.

    Attributes:
        questions: how many.
        top1: share whose name came first among all names.
        top5: share whose name was among the first five.
        background: share with the right ground, of those that ask for one; None if none does.
    """

    questions: int
    top1: Estimate
    top5: Estimate
    background: Estimate | None


@dataclass(frozen=True, slots=True)
class Answers:
    """Right or wrong, question by question.

    Attributes:
        first: [question], whether the name came first.
        among: [question], whether it was among the first five.
        grounds: [question], whether the ground was right; nothing is said of bare prompts.
        asks_ground: [question], whether the prompt asks for a ground.
    """

    first: Hits
    among: Hits
    grounds: Hits
    asks_ground: Hits

    def of(self, chosen: Hits) -> "Answers":
        """Returns the answers to some of the questions, [question]."""
        return Answers(
            self.first[chosen], self.among[chosen], self.grounds[chosen], self.asks_ground[chosen]
        )

    def score(self) -> Score:
        """Returns the shares of right answers."""
        grounds = self.grounds[self.asks_ground]
        return Score(
            questions=len(self.first),
            top1=share(self.first),
            top5=share(self.among),
            background=share(grounds) if len(grounds) else None,
        )


def mark(
    questions: Sequence[Question],
    seen: Seen,
    pixels: NDArray[np.uint8],
    backgrounds: Backgrounds,
) -> Answers:
    """Returns which questions were answered right.

    Args:
        questions: what was asked.
        seen: what the judge makes of the answers.
        pixels: the answers, [question, side, side, 3].
        backgrounds: the grounds that prompts may ask for.
    """
    wanted = np.array([question.caption.label for question in questions])
    hits = seen.best == wanted[:, None]
    grounds = [question.caption.background for question in questions]
    right = [
        ground is not None and backgrounds.name(picture) == ground
        for ground, picture in zip(grounds, pixels, strict=True)
    ]
    asked = [ground is not None for ground in grounds]
    return Answers(hits[:, 0], hits.any(1), np.array(right, bool), np.array(asked, bool))


def share(hits: Hits, seed: int = 0) -> Estimate:
    """Returns the share of right answers, [question], and its interval."""
    low, high = np.percentile(hits[_resampled(len(hits), seed)].mean(1), _PERCENTILES)
    return Estimate(float(hits.mean()), float(low), float(high))


def ratio(hits: Hits, reference: Hits, seed: int = 0) -> Estimate | None:
    """Returns how many times as often as the reference these answers are right.

    None where the reference gets nothing right, or might have by chance.
    """
    rows = _resampled(len(hits), seed)
    below = reference[rows].mean(1)
    if not below.all():
        return None
    low, high = np.percentile(hits[rows].mean(1) / below, _PERCENTILES)
    return Estimate(float(hits.mean() / reference.mean()), float(low), float(high))


def _resampled(count: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, count, (_RESAMPLES, count))
