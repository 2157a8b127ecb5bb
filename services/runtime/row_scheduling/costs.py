"""What steps cost: by the model's profile where there is one, else by the steps so far."""

from collections.abc import Callable
from functools import lru_cache
from typing import Generic, TypeVar

from ..models.profile import ModelProfile

K = TypeVar("K")

# Weight of the newest step in what is learnt.
_NEWEST = 0.05
# What is kept of a profile's answers: sizes times rows, more than a mesh sees in a while.
_KEPT = 1024
# What a step costs beside its rows, in rows: as long as nothing is known, and at most.
_FIRST_OVERHEAD, _MOST_OVERHEAD = 1.0, 64.0
# How many rows the batches must differ by, squared, to be worth as much as that first guess.
_STIFFNESS = 0.25


class StepLine:
    """A straight line through what steps take, `b * (overhead + rows)`.

    Attributes:
        row_seconds: `b`; 0 before the first step.
        overhead: what a step takes beside its rows, in rows.
    """

    def __init__(self) -> None:
        self.row_seconds = 0.0
        self.overhead = _FIRST_OVERHEAD
        self._count = 0
        # Moving means of rows, seconds, rows squared, and rows times seconds.
        self._means = (0.0, 0.0, 0.0, 0.0)

    def add(self, row_count: int, seconds: float) -> None:
        """Bends the line towards a step that was taken."""
        self._count += 1
        weight = max(_NEWEST, 1 / self._count)
        seen = (row_count, seconds, row_count * row_count, row_count * seconds)
        self._means = tuple(
            mean + weight * (new - mean) for mean, new in zip(self._means, seen, strict=True)
        )
        rows, taken, squared, product = self._means
        guess = taken / (rows + _FIRST_OVERHEAD)
        slope = (product - rows * taken + _STIFFNESS * guess) / (squared - rows * rows + _STIFFNESS)
        # Between a line through the origin and one that is nearly flat, whatever noise says.
        self.row_seconds = min(max(slope, taken / (rows + _MOST_OVERHEAD)), taken / rows)
        self.overhead = taken / self.row_seconds - rows


class _Profiled(Generic[K]):
    """A profile's answers, kept: it never changes, and every pick asks about the same few sizes.

    Attributes:
        row_limit: rows that pay in a step, by key.
        step_seconds: by key and rows.
    """

    def __init__(
        self, profile: ModelProfile, size_px: Callable[[K], tuple[int, int]], min_gain: float
    ) -> None:
        def row_limit(key: K) -> int:
            return profile.row_limit(*size_px(key), min_gain=min_gain)

        def step_seconds(key: K, row_count: int) -> float:
            return profile.step_seconds(row_count, *size_px(key))

        self.row_limit: Callable[[K], int] = lru_cache(_KEPT)(row_limit)
        self.step_seconds: Callable[[K, int], float] = lru_cache(_KEPT)(step_seconds)


class ProfiledCosts(Generic[K]):
    """Costs of steps, which follow the steps that are taken.

    Args:
        row_limit: most rows of any step.
        size_px: returns height and width in pixels of the pictures of a key.
        profile: what has been measured; None if nothing has.
        min_gain: rows are added to a step as long as that makes them this much cheaper.
    """

    def __init__(
        self,
        row_limit: int,
        size_px: Callable[[K], tuple[int, int]],
        profile: ModelProfile | None = None,
        *,
        min_gain: float = 0.1,
    ) -> None:
        self._row_limit = row_limit
        self._size_px = size_px
        self._profiled = _Profiled(profile, size_px, min_gain) if profile else None
        # How many times longer steps take than the profile says.
        self._pace = 1.0
        # Without a profile: seconds for each pixel.
        self._line = StepLine()

    def row_limit(self, key: K) -> int:
        """Returns the rows beyond which a step gains little; at least 1."""
        if self._profiled is None:
            return self._row_limit
        return max(1, min(self._row_limit, self._profiled.row_limit(key)))

    def step_cost(self, key: K, row_count: int) -> float:
        """Returns the cost of a step: its profiled seconds, else rows and overhead times pixels."""
        if self._profiled is not None:
            return self._profiled.step_seconds(key, row_count)
        height_px, width_px = self._size_px(key)
        return (row_count + self._line.overhead) * height_px * width_px

    def step_seconds(self, key: K, row_count: int) -> float:
        """Returns how long a step takes; 0 before the first if there is no profile."""
        pace = self._line.row_seconds if self._profiled is None else self._pace
        return pace * self.step_cost(key, row_count)

    def note_step(self, key: K, row_count: int, seconds: float) -> None:
        """Learns from a step that was taken how fast the device is now."""
        if self._profiled is None:
            height_px, width_px = self._size_px(key)
            self._line.add(row_count, seconds / (height_px * width_px))
        else:
            self._pace += (seconds / self.step_cost(key, row_count) - self._pace) * _NEWEST
