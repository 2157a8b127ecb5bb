"""A device in virtual time: executions at the same moment slow each other down.

What runs on it progresses at speeds that depend on what else runs. Whenever that changes, what each
has left is brought up to now and the next one to end is found anew: no time slices, no rounding to
a tick.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ...services.runtime.engines.timed_device import SharingRates
from ...services.runtime.models.profile import ModelProfile
from ..scheduling.work import StageName
from .events import EventLoop, Signal

# Executions that would end within so little of each other end together; sums of floats differ.
_SAME_MOMENT = 1e-9


class Sharing(Protocol):
    """How executions share a device."""

    def speeds(self, stages: Sequence[StageName]) -> Sequence[float]:
        """Returns the share of its full speed that each of some executions gets, in order."""
        ...


@dataclass(frozen=True, slots=True)
class EqualSharing:
    """All get the same, by how many run: as the timed engines do (`timed_device.py`)."""

    rates: SharingRates

    def speeds(self, stages: Sequence[StageName]) -> Sequence[float]:
        """Returns the share of its full speed that each of some executions gets, in order."""
        return [self.rates.of(len(stages))] * len(stages)


@dataclass(frozen=True, slots=True)
class PairSharing:
    """Each is slowed by each other one, by what was measured of the pair; factors multiply.

    Attributes:
        slowdowns: how many times longer the first takes while the second runs; 1 if not named.
    """

    slowdowns: Mapping[tuple[StageName, StageName], float]

    @classmethod
    def of(cls, profile: ModelProfile) -> "PairSharing":
        """Returns what a model's profile says."""
        found: dict[tuple[StageName, StageName], float] = {}
        for pair in profile.pairs:
            found[pair.stage, pair.other] = pair.slowdown
            found[pair.other, pair.stage] = pair.other_slowdown
        return cls(found)

    def speeds(self, stages: Sequence[StageName]) -> Sequence[float]:
        """Returns the share of its full speed that each of some executions gets, in order."""
        return [
            1
            / math.prod(
                self.slowdowns.get((stage, other), 1.0) for j, other in enumerate(stages) if j != i
            )
            for i, stage in enumerate(stages)
        ]


@dataclass(eq=False, slots=True)
class _Execution:
    stage: StageName
    seconds_left: float
    started_s: float
    ended: Signal[float]
    speed: float = 1.0

    @property
    def wall_s(self) -> float:
        return self.seconds_left / self.speed


class VirtualDevice:
    """One device.

    Attributes:
        name: as the scheduler knows it.
        busy_s: time during which anything ran.
        work_s: seconds at full speed of all that was run.
    """

    def __init__(self, name: str, loop: EventLoop, sharing: Sharing) -> None:
        self.name = name
        self.busy_s = 0.0
        self.work_s = 0.0
        self._loop = loop
        self._sharing = sharing
        self._running: list[_Execution] = []
        self._since_s = 0.0
        self._changes = 0

    def run(self, stage: StageName, seconds: float) -> Signal[float]:
        """Returns what happens when an execution that starts now ends, with the time it took.

        Args:
            stage: whose it is.
            seconds: that it takes alone.
        """
        self._catch_up()
        ended: Signal[float] = Signal(self._loop)
        self._running.append(_Execution(stage, seconds, self._loop.now_s, ended))
        self.work_s += seconds
        self._share()
        return ended

    def _catch_up(self) -> None:
        passed_s = self._loop.now_s - self._since_s
        self._since_s = self._loop.now_s
        if self._running:
            self.busy_s += passed_s
        for one in self._running:
            one.seconds_left -= passed_s * one.speed

    def _share(self) -> None:
        """Gives everyone its speed and calls for the next end."""
        self._changes += 1
        if not self._running:
            return
        speeds = self._sharing.speeds([one.stage for one in self._running])
        for one, speed in zip(self._running, speeds, strict=True):
            one.speed = speed
        change = self._changes
        next_s = max(0.0, min(one.wall_s for one in self._running))
        self._loop.at(self._loop.now_s + next_s, lambda: self._end(change))

    def _end(self, change: int) -> None:
        if change != self._changes:
            return
        self._catch_up()
        latest_s = max(0.0, min(one.wall_s for one in self._running)) + _SAME_MOMENT
        ended = [one for one in self._running if one.wall_s <= latest_s]
        self._running = [one for one in self._running if one.wall_s > latest_s]
        self._share()
        for one in ended:
            one.ended.set(self._loop.now_s - one.started_s)
