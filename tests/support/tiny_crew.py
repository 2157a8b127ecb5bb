"""Crews that train a few numbers: `tiny_crew.py FOLDER CASES`, cases and results as JSON.

A case is a number of workers and the updates that each of its runs ends at; a run resumes from the
checkpoint of the one before. A process apart, because crews fork, which a process with other
threads should not, and limit torch to one thread.
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from sangsang.services.diffusion.training.crew import Crew
from sangsang.services.diffusion.training.muon import Muon
from sangsang.services.diffusion.training.stopwatch import Budget

BATCHES = 4


class CountedUpdates(Budget):
    """A budget of updates, so that a run does not depend on the clock."""

    def __init__(self, update_count):
        super().__init__(minutes=60)
        self._left = update_count

    def resume(self, path, *parts):
        update = super().resume(path, *parts)
        self._left -= update
        return update

    def is_spent(self):
        self._left -= 1
        return self._left <= 0

    def rate(self, update, warmup):
        return 1.0 / (1 + update)


def train(checkpoint, workers, update_count):
    """The parameters and their averages after so many updates in all."""
    torch.manual_seed(0)
    # One matrix for Muon; its bias and the small end are AdamW's.
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 2))

    def loss_of(batch):
        random = torch.Generator().manual_seed(batch)
        rows = torch.randn((8, 32), generator=random)
        return (model(rows) - rows[:, :2]).square().mean()

    crew = Crew(model, Muon([model]), loss_of, workers, BATCHES)
    crew.train(CountedUpdates(update_count), checkpoint, lambda progress: None)
    averages = [tensor.flatten() for tensor in crew.average.tensors.values()]
    return torch.cat([*(p.detach().flatten() for p in model.parameters()), *averages])


def main():
    folder, cases = sys.argv[1:]
    results = []
    for number, (workers, update_counts) in enumerate(json.loads(cases)):
        checkpoint = Path(folder) / f"{number}.pt"
        runs = [train(checkpoint, workers, update_count) for update_count in update_counts]
        results.append(runs[-1].tolist())
    print(json.dumps(results))


if __name__ == "__main__":
    main()
