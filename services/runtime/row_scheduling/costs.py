"""What steps cost: by the model's profile where there is one, else by rows and pixels."""

from collections.abc import Callable
from typing import Generic, TypeVar

from ..models.profile import ModelProfile

K = TypeVar("K")

# Without a profile, a step costs as much as its rows and this many more.
_OVERHEAD_ROW_COUNT = 1.0
# Weight of the newest step in the pace.
_NEWEST = 0.1


class ProfiledCosts(Generic[K]):
    """Costs of steps, corrected by the steps that have been taken.

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
        self._profile = profile
        self._min_gain = min_gain
        # Seconds of a step by its cost: a profile's costs are seconds already.
        self._pace = 0.0 if profile is None else 1.0

    def row_limit(self, key: K) -> int:
        """Returns the rows beyond which a step gains little; at least 1."""
        if self._profile is None:
            return self._row_limit
        limit = self._profile.row_limit(*self._size_px(key), min_gain=self._min_gain)
        return max(1, min(self._row_limit, limit))

    def step_cost(self, key: K, row_count: int) -> float:
        """Returns the cost of a step: its profiled seconds, else rows times pixels."""
        height_px, width_px = self._size_px(key)
        if self._profile is None:
            return (row_count + _OVERHEAD_ROW_COUNT) * height_px * width_px
        return self._profile.step_seconds(row_count, height_px, width_px)

    def step_seconds(self, key: K, row_count: int) -> float:
        """Returns how long a step takes; 0 before the first if there is no profile."""
        return self._pace * self.step_cost(key, row_count)

    def note_step(self, key: K, row_count: int, seconds: float) -> None:
        """Learns from a step that was taken how fast the device is now."""
        pace = seconds / self.step_cost(key, row_count)
        self._pace += (pace - self._pace) * (_NEWEST if self._pace else 1.0)
