"""What the row scheduler looks at: jobs that wait for a step, and what steps cost."""

from collections.abc import Hashable
from typing import Any, Protocol


class Candidate(Protocol):
    """A job that could be in the next step.

    Attributes:
        key: jobs of equal keys can share a step.
        row_count: rows that it takes; they never part.
        tier: tiers share the compute by their weights.
        tenant: tenants of a tier share what the tier gets.
        deadline_s: when its last step should have ended; None for never.
        step_count: steps that it takes in all.
        remaining_step_count: steps that it still has to take.
        arrival_s: when it came, on the same clock.
        last_pick: `RowScheduler.pick_count` when it was last picked, or when it came.
    """

    @property
    def key(self) -> Hashable: ...
    @property
    def row_count(self) -> int: ...
    @property
    def tier(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def deadline_s(self) -> float | None: ...
    @property
    def step_count(self) -> int: ...
    @property
    def remaining_step_count(self) -> int: ...
    @property
    def arrival_s(self) -> float: ...
    @property
    def last_pick(self) -> int: ...


class StepCosts(Protocol):
    """What steps cost on the engine that takes them."""

    def row_limit(self, key: Any) -> int:
        """Returns the rows beyond which a step of this key gains little; at least 1."""
        ...

    def step_cost(self, key: Any, row_count: int) -> float:
        """Returns the cost of a step, above 0, in any unit that is the same for all keys."""
        ...

    def step_seconds(self, key: Any, row_count: int) -> float:
        """Returns how long a step takes; 0 as long as nothing is known."""
        ...

    def note_step(self, key: Any, row_count: int, seconds: float) -> None:
        """Learns from a step that was taken."""
        ...
