"""The loop of one stage: question, answer, update; resumable at any moment.

Every update's questions are drawn from its number, so a run that was killed asks what the unbroken
one would have asked.
"""

# accelerate annotates loosely.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn

from .lessons import Lesson
from .networks import Denoiser, UnguidedDenoiser
from .trajectory import NoiseSchedule

_LOG_EVERY = 10
_WARMUP_UPDATES = 50
_LONGEST_AVERAGE = 0.999
_MOST_GRADIENT = 1.0
# Far more than one stage has updates: stages never share a batch.
_SEEDS_PER_STAGE = 1 << 40
_LAUNCHER = os.getppid()


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How a stage is trained.

    Attributes:
        update_count: updates of the stage.
        batch_size: rows of one update, all processes together.
        learning_rate: at its peak, after the warm-up; falls to 0 in a line.
        checkpoint_interval_s: seconds between two checkpoints: the most that a kill can cost.
    """

    update_count: int
    batch_size: int
    learning_rate: float
    checkpoint_interval_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a stage stands after an update.

    Attributes:
        update: updates done.
        update_count: updates in all.
        loss: mean of the last few updates.
        learning_rate: of the last one.
        rows_per_s: all processes together, since the last report.
        elapsed_s: seconds of the stage, those before a restart included.
    """

    update: int
    update_count: int
    loss: float
    learning_rate: float
    rows_per_s: float
    elapsed_s: float


class StageTrainer:
    """Trains one student.

    Args:
        accelerator: the device, the precision, and the other processes.
        unet: the student, changed in place; only parameters that require a gradient learn.
        new_lesson: returns what asks and answers, given the student.
        schedule: tells what the student's outputs mean.
        settings: how long, how fast.
        number: of the stage, which decides its random numbers.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        unet: nn.Module,
        new_lesson: Callable[[Denoiser], Lesson],
        schedule: NoiseSchedule,
        settings: TrainingSettings,
        number: int,
    ) -> None:
        self._accelerator, self._settings, self._number = accelerator, settings, number
        self._learning = [p for p in unet.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(self._learning, settings.learning_rate, weight_decay=0.0)
        self._wrapped, self._optimizer = accelerator.prepare(unet, optimizer)
        self._student = UnguidedDenoiser(self._wrapped, schedule)
        self._lesson = new_lesson(UnguidedDenoiser(unet, schedule))
        self._average = EMAModel(self._learning, _LONGEST_AVERAGE, use_ema_warmup=True, power=0.75)
        self._average.to(accelerator.device)
        self._update, self._elapsed_s = 0, 0.0

    def resume(self, checkpoint: Path) -> None:
        """Takes up the state that a checkpoint holds, if there is one."""
        if not checkpoint.exists():
            return
        state = torch.load(checkpoint, map_location=self._accelerator.device, weights_only=True)
        self._update, self._elapsed_s = state["update"], state["elapsed_s"]
        with torch.no_grad():
            for parameter, stored in zip(self._learning, state["student"], strict=True):
                parameter.copy_(stored)
        self._optimizer.load_state_dict(state["optimizer"])
        self._average.load_state_dict(state["average"])
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])

    def train(self, checkpoint: Path, report: Callable[[Standing], None]) -> None:
        """Trains to the end of the stage and leaves the averaged weights in the student.

        Args:
            checkpoint: file that the state is kept in now and then.
            report: told every 10 updates, on the main process only.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        kept_s = logged_s = time.monotonic()
        losses: list[float] = []
        while self._update < self._settings.update_count:
            _leave_if_orphaned()
            losses.append(self._step())
            self._update += 1
            if self._update % _LOG_EVERY == 0 or self._update == self._settings.update_count:
                now = time.monotonic()
                self._elapsed_s += now - logged_s
                report(self._standing(losses, now - logged_s))
                logged_s, losses = now, []
            if time.monotonic() - kept_s > self._settings.checkpoint_interval_s:
                self._keep(checkpoint)
                kept_s = time.monotonic()
        self._average.copy_to(self._learning)
        # Takes the precision's wrapper off the network, which is a teacher from now on.
        self._accelerator.unwrap_model(self._wrapped, keep_fp32_wrapper=False)
        self._accelerator.wait_for_everyone()

    @property
    def update(self) -> int:
        """Updates done so far."""
        return self._update

    def _step(self) -> float:
        rate = self._rate()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        random = torch.Generator().manual_seed(self._seed())
        count = max(1, self._settings.batch_size // self._accelerator.num_processes)
        with self._accelerator.autocast():
            question, wanted = self._lesson.ask(count, random)
        answered = self._student(question.noisy, question.start, question.conditions)
        loss = self._lesson.loss(answered, wanted, question)
        self._accelerator.backward(loss)
        if self._accelerator.sync_gradients:
            self._accelerator.clip_grad_norm_(self._learning, _MOST_GRADIENT)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._average.step(self._learning)
        value = loss.item()
        if value != value or value == float("inf"):
            raise FloatingPointError(
                f"the loss is {value} at update {self._update + 1}; lower --learning-rate, or take "
                "--mixed-precision no"
            )
        return value

    def _seed(self) -> int:
        part = self._update * self._accelerator.num_processes + self._accelerator.process_index
        return self._number * _SEEDS_PER_STAGE + part

    def _rate(self) -> float:
        left = 1 - self._update / self._settings.update_count
        warm = min(1.0, (self._update + 1) / _WARMUP_UPDATES)
        return self._settings.learning_rate * warm * left

    def _standing(self, losses: list[float], seconds: float) -> Standing:
        count = self._settings.batch_size * len(losses)
        return Standing(
            self._update,
            self._settings.update_count,
            sum(losses) / len(losses),
            self._rate(),
            count / seconds,
            self._elapsed_s,
        )

    def _keep(self, checkpoint: Path) -> None:
        """Stores the state, whole or not at all; every process holds the same, so one writes."""
        if not self._accelerator.is_main_process:
            return
        scaler = self._accelerator.scaler
        state: dict[str, Any] = {
            "update": self._update,
            "elapsed_s": self._elapsed_s,
            "student": [parameter.detach() for parameter in self._learning],
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        partial = checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.rename(checkpoint)


def _leave_if_orphaned() -> None:
    """Ends a worker whose launcher was killed: nobody would ever end it."""
    if "TORCHELASTIC_RUN_ID" in os.environ and os.getppid() != _LAUNCHER:
        raise SystemExit("the process that started this one is gone")
