"""Training by the clock: what a machine offers is minutes, so schedules run on minutes.

The share of the budget that is spent drives the learning rate, and survives a restart because it is
stored with every checkpoint.
"""

import math
import time
from pathlib import Path
from typing import Protocol

import torch

_CHECKPOINT_EVERY_S = 60.0


class Stateful(Protocol):
    """Anything with a state to store: a module, an optimizer, an average."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state_dict: dict) -> object: ...


class Budget:
    """How many minutes a stage may take, and how many it has had."""

    def __init__(self, minutes: float) -> None:
        self._total_s = minutes * 60
        self._started_s = time.monotonic()
        self._stored_s = self._started_s

    def spent_s(self) -> float:
        """Returns the seconds spent, those before a restart included."""
        return time.monotonic() - self._started_s

    def share_spent(self) -> float:
        """Returns how much of the budget is gone, 0..1."""
        return min(1.0, self.spent_s() / self._total_s)

    def is_spent(self) -> bool:
        """Tells whether time is up."""
        return self.spent_s() >= self._total_s

    def rate(self, update: int, warmup: int) -> float:
        """Returns the learning rate's factor: a linear warm-up, then a cosine to zero."""
        cosine = 0.5 * (1 + math.cos(math.pi * self.share_spent()))
        return min(1.0, (update + 1) / warmup) * cosine

    def resume(self, path: Path, *parts: Stateful) -> int:
        """Restores the parts from a checkpoint, if there is one, and returns the updates done."""
        if not path.exists():
            return 0
        stored = torch.load(path, weights_only=True)
        for part, state in zip(parts, stored["parts"], strict=True):
            part.load_state_dict(state)
        self._started_s = time.monotonic() - stored["spent_s"]
        return stored["update"]

    def checkpoint(self, path: Path, update: int, *parts: Stateful, force: bool = False) -> None:
        """Stores the parts once a minute, whole or not at all."""
        now = time.monotonic()
        if now - self._stored_s < _CHECKPOINT_EVERY_S and not force:
            return
        self._stored_s = now
        states = [part.state_dict() for part in parts]
        partial = path.with_suffix(".partial")
        torch.save({"update": update, "spent_s": self.spent_s(), "parts": states}, partial)
        partial.rename(path)
