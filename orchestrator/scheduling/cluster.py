"""Devices, their lanes, and who holds them.

A lane is held by a model, not by a request: while a model has tasks on a device it holds one lane
of it, and further tasks of the model join it there. A lane that drains takes no more tasks, and is
free once those in it are done.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .work import HEAVY_STAGE, Grant, Model, StageName

# Pairs of stages that lose when they share a device.
Pairs = frozenset[frozenset[StageName]]


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """A device as it is configured.

    Attributes:
        addresses: of the stage replicas on it. Devices may share a replica of a light stage.
        lane_count: models that may run on it at one moment; 0 for any number.
    """

    name: str
    addresses: Mapping[StageName, str]
    lane_count: int = 2


@dataclass(eq=False, slots=True)
class Lane:
    """A lane that a model holds.

    Attributes:
        number: place among the device's lanes, from 0.
        taken_s: since when, on the scheduler's clock.
        draining: whether it takes no more tasks.
        tier_rows: rows in it by tier.
    """

    number: int
    model: Model
    taken_s: float
    draining: bool = False
    grants: set[Grant] = field(default_factory=set[Grant])
    tier_rows: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def seconds_left(self) -> float:
        """Estimated seconds of what is in it."""
        return sum(grant.seconds_left for grant in self.grants)


class Device:
    """One device: its lanes and what is in them.

    Attributes:
        index: place among the devices.
        stamp: changes whenever the device does.
        seconds_left: estimated seconds of work in all lanes.
        row_count: rows in all lanes.
        heavy_count: lanes that heavy models hold.
    """

    def __init__(self, spec: DeviceSpec, index: int, forbidden: Pairs) -> None:
        self.name = spec.name
        self.index = index
        self.stamp = 0
        self.addresses = dict(spec.addresses)
        self.seconds_left = 0.0
        self.row_count = 0
        self.heavy_count = 0
        self._lane_count = spec.lane_count
        self._forbidden = forbidden
        self._lanes: dict[Model, Lane] = {}

    @property
    def lanes(self) -> Iterable[Lane]:
        """The lanes that are held."""
        return self._lanes.values()

    @property
    def heavy_limit(self) -> int:
        """Lanes that heavy models may hold while anything else waits."""
        return 1 if self._lane_count != 1 else 0

    @property
    def unlimited(self) -> bool:
        """Whether it has as many lanes as anyone asks for."""
        return self._lane_count == 0

    def lane_of(self, model: Model) -> Lane | None:
        """Returns the lane that a model holds."""
        return self._lanes.get(model)

    def heavy_lanes(self) -> list[Lane]:
        """Returns the lanes that heavy models hold."""
        return [lane for model, lane in self._lanes.items() if model[0] == HEAVY_STAGE]

    def has_lane_for(self, model: Model) -> bool:
        """Returns whether a model that holds no lane may take one."""
        if not self.unlimited and len(self._lanes) >= self._lane_count:
            return False
        if not self._forbidden:
            return True
        return not any(frozenset((model[0], held[0])) in self._forbidden for held in self._lanes)

    def put(self, grant: Grant, model: Model, now_s: float) -> Lane:
        """Lets a task into its model's lane; takes one if the model has none."""
        lane = self._lanes.get(model)
        if lane is None:
            used = {lane.number for lane in self._lanes.values()}
            number = next(n for n in range(len(used) + 1) if n not in used)
            lane = self._lanes[model] = Lane(number, model, now_s)
            self.heavy_count += model[0] == HEAVY_STAGE
        work = grant.task.work
        lane.grants.add(grant)
        lane.tier_rows[work.tier] = lane.tier_rows.get(work.tier, 0) + work.row_count
        self.row_count += work.row_count
        self.seconds_left += grant.seconds_left
        self.stamp += 1
        return lane

    def take_out(self, grant: Grant) -> Lane:
        """Takes out a task that has ended and returns its lane; it is free if that was the last."""
        model, work = grant.task.model, grant.task.work
        lane = self._lanes[model]
        lane.grants.remove(grant)
        lane.tier_rows[work.tier] -= work.row_count
        self.row_count -= work.row_count
        self.seconds_left = max(0.0, self.seconds_left - grant.seconds_left)
        self.stamp += 1
        if not lane.grants:
            del self._lanes[model]
            self.heavy_count -= model[0] == HEAVY_STAGE
        return lane

    def shorten(self, grant: Grant, seconds_left: float) -> None:
        """Notes what is left of a task."""
        done = max(0.0, grant.seconds_left - seconds_left)
        grant.seconds_left -= done
        self.seconds_left = max(0.0, self.seconds_left - done)
        self.stamp += 1
