"""What a student is asked: noisy latents, and the answer that its teacher would have it give."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .networks import Conditions, Denoiser
from .paths import Pieces
from .progression import Stage
from .studies import Studies
from .trajectory import (
    CLEAN,
    NoiseSchedule,
    clean_that_reaches,
    ddim_step,
    noised,
    substeps,
    truncated_snr,
)

# Prompts of the rows -> what they are denoised for.
Embed = Callable[[list[str]], Conditions]

# So that a request without a prompt still gets what the teacher gives it.
_PROMPT_DROPPED = 0.05


@dataclass(frozen=True, slots=True)
class Question:
    """One batch to answer.

    Attributes:
        noisy: [row, channel, height, width], f32.
        start: [row], int64, the timestep of the noisy latents.
        end: [row], int64, where one step of the student leads; `CLEAN` at the end.
        conditions: of the same rows.
    """

    noisy: Tensor
    start: Tensor
    end: Tensor
    conditions: Conditions


class Lesson(ABC):
    """The questions of a stage, and how an answer is marked.

    Args:
        schedule: noise levels and timesteps.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        self._schedule = schedule

    @abstractmethod
    def ask(self, count: int, random: torch.Generator) -> tuple[Question, Tensor]:
        """Returns questions and the clean latents that the student should give, no gradient.

        Args:
            count: rows of the batch.
            random: decides all that is left to chance; a CPU generator.
        """

    def loss(self, answered: Tensor, wanted: Tensor, question: Question) -> Tensor:
        """Returns the mean squared error of clean latents, weighted by the truncated SNR."""
        weight = truncated_snr(self._schedule.level(question.start))
        return (weight * (answered - wanted).square()).mean()


class NoisedLesson(Lesson):
    """Questions about latents that noise was added to; the teacher answers as they are asked.

    Args:
        stage: whose.
        schedule: noise levels and timesteps.
        teacher: of the stage.
        studies: latents and prompts to ask about.
        embed: gives the conditions of prompts.
    """

    def __init__(
        self,
        stage: Stage,
        schedule: NoiseSchedule,
        teacher: Denoiser,
        studies: Studies,
        embed: Embed,
    ) -> None:
        super().__init__(schedule)
        self._stage, self._teacher = stage, teacher
        self._studies, self._embed = studies, embed

    def ask(self, count: int, random: torch.Generator) -> tuple[Question, Tensor]:
        """Returns questions about latents drawn at random, and the answers."""
        rows = torch.randint(len(self._studies), (count,), generator=random)
        dropped = torch.rand(count, generator=random) < _PROMPT_DROPPED
        prompts = [
            "" if drop else self._studies.prompts[row]
            for row, drop in zip(rows.tolist(), dropped.tolist(), strict=True)
        ]
        conditions = self._embed(prompts)
        clean = self._studies.latents[rows].float().to(conditions.prompts.device)
        question = self.question(clean, conditions, random)
        return question, self.answer(question)

    def question(self, clean: Tensor, conditions: Conditions, random: torch.Generator) -> Question:
        """Returns a question about latents, its timesteps and noise drawn on the CPU.

        Args:
            clean: [row, channel, height, width], f32.
            conditions: of the same rows.
            random: decides all that is left to chance; a CPU generator.
        """
        start, end = self._timesteps(_slices(len(clean), random))
        noise = torch.randn(clean.shape, generator=random)
        start, end, noise = (tensor.to(clean.device) for tensor in (start, end, noise))
        noisy = noised(clean, noise, self._schedule.level(start))
        return Question(noisy, start, end, conditions)

    @abstractmethod
    def answer(self, question: Question) -> Tensor:
        """Returns the clean latents that the student should give, without a gradient."""

    @abstractmethod
    def _timesteps(self, slices: Tensor) -> tuple[Tensor, Tensor]:
        """Returns where steps start and end, [row] int64 each, for draws from 0..1."""

    def _teacher_step(
        self, latents: Tensor, start: Tensor, end: Tensor, conditions: Conditions
    ) -> Tensor:
        # Close to the end two substeps may fall on one timestep; standing still is no division.
        moving = (start != end).view(-1, 1, 1, 1)
        clean = self._teacher(latents, start, conditions)
        at, to = self._schedule.level(start), self._schedule.level(end)
        return torch.where(moving, ddim_step(latents, clean, at, to), latents)


class ProgressiveLesson(NoisedLesson):
    """One step of the student for a few of its teacher's: Salimans & Ho (2022)."""

    @cached_property
    def _served(self) -> Tensor:
        return self._schedule.served_timesteps(self._stage.student_step_count)

    @torch.no_grad()
    def answer(self, question: Question) -> Tensor:
        """Returns the clean latents with which the student's one step ends where the teacher's do.

        The first stage's teacher takes as many steps as its student: then the answer is what the
        guided teacher says itself.
        """
        count = self._stage.teacher_steps_per_step
        if count == 1:
            return self._teacher(question.noisy, question.start, question.conditions)
        path = substeps(question.start, question.end, count)
        latents = question.noisy
        for start, end in itertools.pairwise(path):
            latents = self._teacher_step(latents, start, end, question.conditions)
        at, to = self._schedule.level(question.start), self._schedule.level(question.end)
        return clean_that_reaches(latents, question.noisy, at, to)

    def _timesteps(self, slices: Tensor) -> tuple[Tensor, Tensor]:
        if self._stage.last:
            index = (slices * self._stage.student_step_count).long()
            return self._served[:-1][index], self._served[1:][index]
        # Anywhere, and from the very first timestep as often as from any other of its steps: the
        # next student's teacher has to know its way between the timesteps that serving visits.
        span = self._schedule.train_step_count / self._stage.student_step_count
        first = int(self._served[0])
        # Not 0: some schedules end at that very level, and a step that leads nowhere has no answer.
        start = (slices * (first + span)).long().clamp(1, first)
        end = (start - round(span)).clamp(min=CLEAN)
        return start, end


class ConsistencyLesson(NoisedLesson):
    """The same clean latents from everywhere on a path: Luo et al., latent consistency (2023).

    The student's answer at a timestep is to be its own answer one teacher's step later; at the end
    of the path that is the teacher's. Without an average of the student as the target, which Song
    & Dhariwal (2023) found to be in the way.

    Args:
        stage: whose; the teacher's step count is the path's.
        schedule: noise levels and timesteps.
        teacher: guided.
        studies: latents and prompts to ask about.
        embed: gives the conditions of prompts.
        student: gives the answers of the next timestep.
    """

    def __init__(
        self,
        stage: Stage,
        schedule: NoiseSchedule,
        teacher: Denoiser,
        studies: Studies,
        embed: Embed,
        student: Denoiser,
    ) -> None:
        super().__init__(stage, schedule, teacher, studies, embed)
        self._student = student
        self._path = schedule.served_timesteps(stage.teacher_step_count)

    @torch.no_grad()
    def answer(self, question: Question) -> Tensor:
        """Returns the student's own answer after one step of the teacher."""
        reached = self._teacher_step(
            question.noisy, question.start, question.end, question.conditions
        )
        ended = (question.end == CLEAN).view(-1, 1, 1, 1)
        later = question.end.clamp(min=0)
        return torch.where(ended, reached, self._student(reached, later, question.conditions))

    def _timesteps(self, slices: Tensor) -> tuple[Tensor, Tensor]:
        index = (slices * self._stage.teacher_step_count).long()
        return self._path[:-1][index], self._path[1:][index]


class PathLesson(Lesson):
    """One step of the student for a piece of a path that its teacher solved before.

    Args:
        stage: whose.
        schedule: noise levels and timesteps.
        pieces: of paths.
        prompt: number of a prompt -> the prompt.
        embed: gives the conditions of prompts.
    """

    def __init__(
        self,
        stage: Stage,
        schedule: NoiseSchedule,
        pieces: Pieces,
        prompt: Callable[[int], str],
        embed: Embed,
    ) -> None:
        super().__init__(schedule)
        self._pieces, self._prompt, self._embed = pieces, prompt, embed
        self._served = schedule.served_timesteps(stage.student_step_count)
        # Later steps have more pieces, and none is to be practised more than another.
        self._of_step = [
            (pieces.step == step).nonzero().flatten() for step in range(stage.student_step_count)
        ]

    def ask(self, count: int, random: torch.Generator) -> tuple[Question, Tensor]:
        """Returns where pieces begin, every step as often, and what leads to where they end."""
        steps = (_slices(count, random) * len(self._of_step)).long()
        chance = torch.rand(count, generator=random)
        chosen = torch.stack(
            [
                self._of_step[step][int(share * len(self._of_step[step]))]
                for step, share in zip(steps.tolist(), chance.tolist(), strict=True)
            ]
        )
        conditions = self._embed([self._prompt(row) for row in self._pieces.row[chosen].tolist()])
        device = conditions.prompts.device
        noisy = self._pieces.noisy[chosen].float().to(device)
        reached = self._pieces.reached[chosen].float().to(device)
        start, end = self._served[steps].to(device), self._served[steps + 1].to(device)
        at, to = self._schedule.level(start), self._schedule.level(end)
        wanted = clean_that_reaches(reached, noisy, at, to)
        return Question(noisy, start, end, conditions), wanted


def _slices(count: int, random: torch.Generator) -> Tensor:
    """Returns draws from 0..1, one from each of equal slices: a batch sees the whole schedule."""
    return (torch.arange(count) + torch.rand(count, generator=random)) / count
