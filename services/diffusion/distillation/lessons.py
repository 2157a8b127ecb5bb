"""What a student is asked: noisy latents, and the answer that its teacher would have it give."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from .networks import Conditions, Denoiser
from .progression import Stage
from .trajectory import (
    CLEAN,
    NoiseSchedule,
    clean_that_reaches,
    ddim_step,
    noised,
    substeps,
    truncated_snr,
)


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


class Lesson:
    """The questions of a stage, and how an answer is marked.

    Args:
        stage: whose.
        schedule: noise levels and timesteps.
        teacher: of the stage.
    """

    def __init__(self, stage: Stage, schedule: NoiseSchedule, teacher: Denoiser) -> None:
        self._stage, self._schedule, self._teacher = stage, schedule, teacher
        self._served = schedule.served_timesteps(stage.student_step_count)

    def question(self, clean: Tensor, conditions: Conditions, random: torch.Generator) -> Question:
        """Returns a question about latents, its timesteps and noise drawn on the CPU.

        Args:
            clean: [row, channel, height, width], f32.
            conditions: of the same rows.
            random: decides all that is left to chance; a CPU generator.
        """
        start, end = self._timesteps(len(clean), random)
        noise = torch.randn(clean.shape, generator=random)
        start, end, noise = (tensor.to(clean.device) for tensor in (start, end, noise))
        noisy = noised(clean, noise, self._schedule.level(start))
        return Question(noisy, start, end, conditions)

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

    def loss(self, answered: Tensor, wanted: Tensor, question: Question) -> Tensor:
        """Returns the mean squared error of clean latents, weighted by the truncated SNR."""
        weight = truncated_snr(self._schedule.level(question.start))
        return (weight * (answered - wanted).square()).mean()

    def _teacher_step(
        self, latents: Tensor, start: Tensor, end: Tensor, conditions: Conditions
    ) -> Tensor:
        # Close to the end two substeps may fall on one timestep; standing still is no division.
        moving = (start != end).view(-1, 1, 1, 1)
        clean = self._teacher(latents, start, conditions)
        at, to = self._schedule.level(start), self._schedule.level(end)
        return torch.where(moving, ddim_step(latents, clean, at, to), latents)

    def _timesteps(self, rows: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws where the student starts and ends, one draw from each of equal slices."""
        slices = (torch.arange(rows) + torch.rand(rows, generator=random)) / rows
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
