"""Draws with every configuration, judges, measures: the evaluation from end to end."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import Progress

from .backgrounds import Backgrounds
from .configurations import Configuration
from .distances import Features, frechet_distance, kernel_distance, mean_pairwise_distance
from .judge import Judge, open_judge
from .questions import ask_again, ask_each, ask_for_figure
from .real_pictures import (
    FEWEST_HELD_OUT,
    BadPictures,
    RealPictures,
    Split,
    fit,
    read_pictures,
    split,
)
from .results import Comparison, Outcome, Ratios, RealFigures
from .sampling import Batch, Drawn, Painting, batches_of
from .scores import Answers, mark, ratio, share


@dataclass(frozen=True, slots=True)
class Plan:
    """What to compare, and how thoroughly.

    Attributes:
        folder: the model.
        pictures: folder of real pictures.
        configurations: the reference first.
        work: where trained judges and drawn batches are kept.
        workers: single-threaded processes that draw.
        question_limit: most questions of each group; None asks for every name.
        variety_prompts: how many prompts are asked with several seeds.
        variety_seeds: how many seeds each.
        figure_prompts: what the figure shows; empty for prompts spread over the questions.
        judge_side_px: width and height at which the judge sees a picture.
    """

    folder: Path
    pictures: Path
    configurations: tuple[Configuration, ...]
    work: Path
    workers: int = 1
    question_limit: int | None = None
    variety_prompts: int = 32
    variety_seeds: int = 4
    figure_prompts: tuple[str, ...] = ()
    judge_side_px: int = 64


@dataclass(frozen=True, slots=True)
class _Measured:
    """What one configuration did, before it is set against the real pictures and the reference."""

    answers: Answers
    features: Features
    variety: float
    unet_evaluations: float
    cpu_s: float
    missed: tuple[str, ...]
    tiles: NDArray[np.uint8]


def compare(plan: Plan, bars: Progress) -> Comparison:
    """Returns the comparison; draws and trains only what is not there yet.

    Raises:
        BadPictures: the real pictures are missing, damaged or too few.
        ModelNotReady: the model, a set of weights or a scheduler is missing.
    """
    painting = Painting(plan.folder, plan.work / "samples", plan.workers)
    painting.check(plan.configurations)
    with _bar(bars, "graphs") as tell:
        painting.prepare((one.precision for one in plan.configurations), tell)
    with _bar(bars, "real pictures") as tell:
        pictures = read_pictures(plan.pictures, plan.judge_side_px, tell)
    parts = split(pictures)
    with _bar(bars, "judge") as tell:
        judge = open_judge(pictures, parts, plan.work, tell)
    examiner = _Examiner(plan, pictures, judge)
    measured = [
        examiner.examine(configuration, painting, bars) for configuration in plan.configurations
    ]
    return examiner.conclude(measured, parts, painting.batch_size)


class _Examiner:
    """Holds the questions and the judge while configurations come and go."""

    def __init__(self, plan: Plan, pictures: RealPictures, judge: Judge) -> None:
        self._plan, self._pictures, self._judge = plan, pictures, judge
        self._backgrounds = Backgrounds.learn(pictures.pixels, pictures.captions)
        captions = pictures.captions
        self._asked = ask_each(captions, plan.question_limit)
        self._again = ask_again(captions, plan.variety_prompts, plan.variety_seeds)
        self._figure = ask_for_figure(captions, plan.figure_prompts)

    def examine(
        self, configuration: Configuration, painting: Painting, bars: Progress
    ) -> _Measured:
        parts = [
            batches_of(configuration, questions, painting.batch_size)
            for questions in (self._asked, self._again, self._figure)
        ]
        batches = [batch for part in parts for batch in part]
        with _bar(bars, configuration.name) as tell:
            drawn = painting.draw(batches, _counted(batches, tell))
        rest = iter(drawn)
        asked, again, figure = (_pixels([next(rest) for _ in part]) for part in parts)
        return self._measure(asked, again, figure, drawn)

    def _measure(
        self,
        asked: NDArray[np.uint8],
        again: NDArray[np.uint8],
        tiles: NDArray[np.uint8],
        drawn: list[Drawn],
    ) -> _Measured:
        pixels = self._fitted(asked)
        seen = self._judge.look(pixels)
        again_seen = self._judge.look(self._fitted(again))
        missed = [
            f"{self._name(question.caption.label)} -> {self._name(best)}"
            for question, best in zip(self._asked, seen.best[:, 0].tolist(), strict=True)
            if question.caption.label != best
        ]
        return _Measured(
            answers=mark(self._asked, seen, pixels, self._backgrounds),
            features=seen.features,
            variety=variety(again_seen.features, self._plan.variety_seeds),
            unet_evaluations=sum(d.unet_rows for d in drawn) / sum(len(d.pixels) for d in drawn),
            cpu_s=float(np.median([d.cpu_s_per_picture for d in drawn])),
            missed=tuple(missed),
            tiles=tiles,
        )

    def conclude(self, measured: Sequence[_Measured], parts: Split, batch_size: int) -> Comparison:
        reference = self._features(parts.reference)
        frechet = [frechet_distance(one.features, reference) for one in measured]
        groups = np.array([question.caption.group for question in self._asked])
        names = dict.fromkeys(groups.tolist())
        outcomes = [
            Outcome(
                configuration=configuration,
                total=one.answers.score(),
                groups={name: one.answers.of(groups == name).score() for name in names},
                frechet=distance,
                kernel=kernel_distance(one.features, reference),
                variety=one.variety,
                unet_evaluations=one.unet_evaluations,
                cpu_s=one.cpu_s,
                against_reference=_ratios(one, measured[0], distance / frechet[0]),
                missed=one.missed,
                tiles=one.tiles,
            )
            for configuration, one, distance in zip(
                self._plan.configurations, measured, frechet, strict=True
            )
        ]
        real = self._real(parts, reference)
        return Comparison(
            tuple(self._asked), tuple(self._figure), batch_size, real, tuple(outcomes)
        )

    def _real(self, parts: Split, reference: Features) -> RealFigures:
        held_out = np.concatenate([parts.reference, parts.control])
        seen = self._judge.look(self._pictures.pixels[held_out])
        hits = seen.best == self._pictures.labels[held_out][:, None]
        control = self._features(parts.control)
        # As many as are drawn, because the Fréchet distance grows where samples are few; from all
        # over, because the control is in the order of the file.
        count = min(len(control), len(self._asked))
        control = control[np.random.default_rng(0).permutation(len(control))[:count]]
        return RealFigures(
            pictures=len(self._pictures.captions),
            names=len(self._pictures.names),
            top1=share(hits[:, 0]),
            top5=share(hits.any(1)),
            frechet=frechet_distance(control, reference),
            kernel=kernel_distance(control, reference),
            reference_count=len(reference),
            sample_count=count,
            variety=self._real_variety(held_out, seen.features),
        )

    def _features(self, rows: NDArray[np.int64]) -> Features:
        """Returns the features of those real pictures whose names are asked for.

        Other names would count as a distance of their own in a quick look at some of them.
        """
        asked = [question.caption.label for question in self._asked]
        rows = rows[np.isin(self._pictures.labels[rows], asked)]
        if len(rows) < FEWEST_HELD_OUT:
            raise BadPictures("too few real pictures of the names asked for: ask more questions")
        return self._judge.look(self._pictures.pixels[rows]).features

    def _real_variety(self, rows: NDArray[np.int64], features: Features) -> float | None:
        """Returns the variety of held-out pictures of the prompts that are asked again."""
        texts = np.array([self._pictures.captions[row].text for row in rows])
        prompts = dict.fromkeys(question.caption.text for question in self._again)
        alike = [features[texts == text][: self._plan.variety_seeds] for text in prompts]
        distances = [mean_pairwise_distance(few) for few in alike if len(few) > 1]
        return float(np.mean(distances)) if distances else None

    def _fitted(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        side = self._plan.judge_side_px
        return np.stack([fit(Image.fromarray(picture), side) for picture in pixels])

    def _name(self, label: int) -> str:
        return self._pictures.names[label]


def variety(features: Features, seeds: int) -> float:
    """Returns the mean distance between pictures of one prompt, [prompt * seed, feature]."""
    prompts = features.reshape(-1, seeds, features.shape[1])
    return float(np.mean([mean_pairwise_distance(prompt) for prompt in prompts]))


def _ratios(one: _Measured, reference: _Measured, frechet: float) -> Ratios:
    return Ratios(
        unet_evaluations=one.unet_evaluations / reference.unet_evaluations,
        cpu_s=one.cpu_s / reference.cpu_s,
        top1=ratio(one.answers.first, reference.answers.first),
        frechet=frechet,
        variety=one.variety / reference.variety if reference.variety else None,
    )


def _pixels(drawn: Sequence[Drawn]) -> NDArray[np.uint8]:
    return np.concatenate([batch.pixels for batch in drawn])


def _counted(batches: Sequence[Batch], tell: Callable[[int, int], None]) -> Callable[[Batch], None]:
    """Returns what counts the pictures of finished batches."""
    total, done = sum(len(batch.seeds) for batch in batches), 0

    def count(batch: Batch) -> None:
        nonlocal done
        done += len(batch.seeds)
        tell(done, total)

    return count


@contextmanager
def _bar(bars: Progress, title: str) -> Iterator[Callable[[int, int], None]]:
    """Yields what moves a bar: how many are done, and of how many."""
    task = bars.add_task(title, total=None)

    def tell(done: int, total: int) -> None:
        bars.update(task, completed=done, total=total)

    yield tell
    # What was there already has told nothing.
    if bars.tasks[task].total is None:
        tell(1, 1)
