"""Training on a few cores that are not ours alone: single-threaded processes on shared weights.

An op spread over the threads of one process waits for the slowest of them hundreds of times an
update; busy neighbours then cost many times their share (measured: 113 rows/s fell to 4). Here
each process works through whole batches, claims the next when done, and meets the others three
times an update. Weights, gradients and optimizer state lie in shared memory, and each process steps
its share of them.
"""

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .muon import Muon
from .stopwatch import Budget

_REPORT_EVERY = 25
_MEET_TIMEOUT_S = 600.0
_LONGEST_AVERAGE = 0.999


@dataclass(frozen=True, slots=True)
class Progress:
    """What a training loop tells its caller now and then."""

    update: int
    loss: float
    minutes: float


class Average:
    """The exponential moving average of a model's parameters: smoother than any one update."""

    def __init__(self, model: nn.Module) -> None:
        self.tensors = {k: p.detach().clone().share_memory_() for k, p in model.named_parameters()}

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the averaged parameters by name."""
        return self.tensors

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Restores the averaged parameters in place."""
        for name, tensor in state_dict.items():
            self.tensors[name].copy_(tensor)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Overwrites the model's parameters with their averages."""
        for name, parameter in model.named_parameters():
            parameter.copy_(self.tensors[name])


class Crew:
    """Processes that train one model together.

    Args:
        model: Its parameters move to shared memory.
        optimizer: Steps them.
        loss_of: Turns the number of a batch into its loss; must not depend on the process.
        workers: How many processes, this one included.
        batches: How many batches make an update.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Muon,
        loss_of: Callable[[int], Tensor],
        workers: int,
        batches: int,
    ) -> None:
        self._model, self._optimizer, self._loss_of = model.share_memory(), optimizer, loss_of
        self._workers, self._batches = workers, batches
        self._parameters = dict(model.named_parameters())
        self.average = Average(model)
        self._gradients = [
            {k: torch.zeros_like(p).share_memory_() for k, p in self._parameters.items()}
            for _ in range(workers)
        ]
        self._losses = torch.zeros(workers).share_memory_()
        # The next update's number, its rate factor, its batches claimed, and whether it is the end.
        fork = multiprocessing.get_context("fork")
        self._fork = fork
        self._update, self._claimed = fork.Value("q", 0), fork.Value("q", 0)
        self._factor, self._is_over = fork.Value("d", 0.0), fork.Value("b", 0)
        self._meeting = fork.Barrier(workers, timeout=_MEET_TIMEOUT_S)

    def train(self, budget: Budget, checkpoint: Path, report: Callable[[Progress], None]) -> None:
        """Trains until the budget is spent; resumes from the checkpoint where there is one."""
        parts = (self._model, self._optimizer, self.average)
        self._update.value = budget.resume(checkpoint, *parts)
        others = [
            self._fork.Process(target=self._work, args=(rank,), daemon=True)
            for rank in range(1, self._workers)
        ]
        for process in others:
            process.start()

        def after_update(loss: float) -> None:
            update = self._update.value
            self._is_over.value = budget.is_spent()
            if update % _REPORT_EVERY == 0:
                report(Progress(update, loss, budget.spent_s() / 60))
            budget.checkpoint(checkpoint, update, *parts, force=bool(self._is_over.value))

        self._work(0, lambda: budget.rate(self._update.value, warmup=100), after_update)
        for process in others:
            process.join()

    def _work(
        self,
        rank: int,
        rate: Callable[[], float] | None = None,
        after_update: Callable[[float], None] | None = None,
    ) -> None:
        """One process's life; rank 0 also sets the rate and keeps the books."""
        torch.set_num_threads(1)
        if rank:
            # Linux deals out the CPU by session: as one session we would count as one process.
            os.setsid()
        owned = self._owned_by(rank)
        for name, parameter in self._parameters.items():
            parameter.grad = self._gradients[rank][name]
        while not self._is_over.value:
            if rate:
                self._factor.value = rate()
            self._work_through_batches(rank)
            self._meeting.wait()
            self._step(rank, owned)
            self._meeting.wait()
            if after_update:
                self._update.value += 1
                self._claimed.value = 0
                after_update(self._losses.sum().item() / self._batches)
            for gradient in self._gradients[rank].values():
                gradient.zero_()
            self._meeting.wait()

    def _work_through_batches(self, rank: int) -> None:
        self._losses[rank] = 0
        first = self._update.value * self._batches
        while True:
            with self._claimed.get_lock():
                claimed = self._claimed.value
                self._claimed.value += 1
            if claimed >= self._batches:
                return
            loss = self._loss_of(first + claimed)
            loss.backward()
            self._losses[rank] += loss.item()

    @torch.no_grad()
    def _step(self, rank: int, owned: dict[str, nn.Parameter]) -> None:
        for name, parameter in owned.items():
            parts = torch.stack([gradients[name] for gradients in self._gradients])
            parameter.grad = parts.sum(0) / self._batches
        self._optimizer.scale_rates(self._factor.value)
        self._optimizer.step_only({id(parameter) for parameter in owned.values()})
        # Short at first, or the average would drag the random start along.
        keep = min(_LONGEST_AVERAGE, (1 + self._update.value) / (10 + self._update.value))
        for name, parameter in owned.items():
            self.average.tensors[name].lerp_(parameter, 1 - keep)
            parameter.grad = self._gradients[rank][name]

    def _owned_by(self, rank: int) -> dict[str, nn.Parameter]:
        """Deals the parameters out so that orthogonalising takes everyone equally long."""
        load = [0.0] * self._workers
        owners: dict[str, int] = {}
        costs = {k: p.numel() * (1 + p.shape[0] / 8) for k, p in self._parameters.items()}
        for name in sorted(costs, key=costs.__getitem__, reverse=True):
            owners[name] = load.index(min(load))
            load[owners[name]] += costs[name]
        return {name: self._parameters[name] for name, owner in owners.items() if owner == rank}
