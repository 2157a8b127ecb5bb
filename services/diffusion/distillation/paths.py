"""Paths of the guided teacher, solved once and kept: where each step of the student has to lead.

Luhman & Luhman (2021) teach a student whole paths, from noise to picture; Yan et al. (PeRFlow,
2024) cut them into one piece for each step. A piece here begins and ends at timesteps that serving
visits. The teacher takes `TeacherPaths.steps_per_step` steps of DPM-Solver++ for it (Lu et al.
2022), which needs a third of the steps that DDIM needs for the same picture.

Of every prompt the teacher solves a path from pure noise, then others from the picture that it
drew, noised again to each later timestep: students meet such latents in image to image, and where
their own steps led a little beside the path.
"""

# diffusers annotates loosely: outputs as bare tuples.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportReturnType=false
# pyright: reportCallIssue=false

import itertools
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

from .networks import Conditions, Denoiser
from .trajectory import NoiseSchedule, noised, substeps

_PROMPTS_AT_ONCE = 16
# A request may come without a prompt.
_EMPTY_EVERY = 32

# Told how many of how many prompts are done.
Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class TeacherPaths:
    """Which paths the teacher solves.

    Attributes:
        prompts: taken in turn, and now and then none.
        count: prompts taken; each gives a piece of a path from pure noise for every step of the
            student, and those of the paths that begin later.
        step_count: of the student.
        steps_per_step: the teacher's for one of the student's.
    """

    prompts: tuple[str, ...]
    count: int
    step_count: int
    steps_per_step: int

    @property
    def file_count(self) -> int:
        """Files of 16 prompts that they fill."""
        return -(-self.count // _PROMPTS_AT_ONCE)

    def rows(self, file: int) -> range:
        """Returns the numbers of the prompts in a file."""
        start = file * _PROMPTS_AT_ONCE
        return range(start, min(self.count, start + _PROMPTS_AT_ONCE))

    def prompt(self, row: int) -> str:
        """Returns the prompt with this number; one in 32 is empty."""
        if row % _EMPTY_EVERY == _EMPTY_EVERY - 1:
            return ""
        return self.prompts[row % len(self.prompts)]


@dataclass(frozen=True, slots=True)
class Pieces:
    """Pieces of paths, one for each step of the student on each of them.

    Attributes:
        noisy: [piece, channel, height, width], f16, where a piece begins.
        reached: the same, where it ends.
        step: [piece], int64, number of the student's step.
        row: [piece], int64, number of the prompt.
    """

    noisy: Tensor
    reached: Tensor
    step: Tensor
    row: Tensor


class PathSolver:
    """Solves paths with a guided teacher.

    Args:
        teacher: guided.
        schedule: noise levels and timesteps.
        config: of the model's scheduler, as diffusers keeps it.
        embed: prompts -> conditions on the teacher's device.
        shape: [channel, height, width] of latents.
    """

    def __init__(
        self,
        teacher: Denoiser,
        schedule: NoiseSchedule,
        config: Any,
        embed: Callable[[list[str]], Conditions],
        shape: tuple[int, int, int],
    ) -> None:
        self._teacher, self._schedule, self._embed = teacher, schedule, embed
        self._config, self._shape = config, shape

    def solve(self, paths: TeacherPaths, folder: Path, share: range, report: Report) -> None:
        """Writes pieces into files of 16 prompts; those on disk are kept.

        Args:
            paths: which to solve.
            folder: where they are kept, for the same paths only.
            share: numbers of the files that are this process's to write.
            report: told after each file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for done, number in enumerate(share, 1):
            file = folder / f"{number:05d}.safetensors"
            if not file.exists():
                partial = file.with_suffix(".partial")
                pieces = self._pieces(paths, paths.rows(number))
                save_file({f.name: getattr(pieces, f.name) for f in fields(pieces)}, partial)
                partial.rename(file)
            report(done, len(share))

    @torch.no_grad()
    def _pieces(self, paths: TeacherPaths, rows: range) -> Pieces:
        conditions = self._embed([paths.prompt(row) for row in rows])
        random = torch.Generator().manual_seed(rows.start)
        served = self._schedule.served_timesteps(paths.step_count)
        found: list[Pieces] = []
        clean: Tensor | None = None
        for first in range(paths.step_count):
            latents = torch.randn((len(rows), *self._shape), generator=random)
            latents = latents.to(conditions.prompts.device)
            if clean is not None:
                at = self._schedule.level(served[first : first + 1].to(latents.device))
                latents = noised(clean, latents, at)
            points = self._path(latents, first, paths, conditions)
            clean = points[-1] if clean is None else clean
            for step, (noisy, reached) in enumerate(itertools.pairwise(points), first):
                steps = torch.full((len(rows),), step)
                numbers = torch.tensor(list(rows))
                found.append(Pieces(noisy.cpu(), reached.cpu(), steps, numbers))
        joined = _joined(found)
        return replace(joined, noisy=joined.noisy.half(), reached=joined.reached.half())

    def _path(
        self, latents: Tensor, first: int, paths: TeacherPaths, conditions: Conditions
    ) -> list[Tensor]:
        """Returns where the path from the student's step `first` on stands before each step."""
        solver = self._solver(paths)
        begin = first * paths.steps_per_step
        solver.set_begin_index(begin)
        points = [latents]
        for number, timestep in enumerate(solver.timesteps[begin:], 1):
            timesteps = timestep.to(latents.device).expand(len(latents))
            clean = self._teacher(latents, timesteps, conditions)
            latents = solver.step(clean, timestep, latents).prev_sample
            if number % paths.steps_per_step == 0:
                points.append(latents)
        return points

    def _solver(self, paths: TeacherPaths) -> DPMSolverMultistepScheduler:
        solver = DPMSolverMultistepScheduler.from_config(
            self._config, algorithm_type="dpmsolver++", solver_order=2, prediction_type="sample"
        )
        # Given, not left to the solver: it rounds by itself, and must meet where the student stops.
        served = self._schedule.served_timesteps(paths.step_count)
        between = substeps(served[:-1], served[1:], paths.steps_per_step)[:-1]
        solver.set_timesteps(timesteps=torch.stack(between, 1).flatten().tolist())
        return solver


def read_pieces(paths: TeacherPaths, folder: Path) -> Pieces:
    """Returns what the processes together have solved."""
    files = [folder / f"{number:05d}.safetensors" for number in range(paths.file_count)]
    return _joined([Pieces(**load_file(file)) for file in files])


def _joined(parts: list[Pieces]) -> Pieces:
    names = [field.name for field in fields(Pieces)]
    return Pieces(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})
