"""The lanes that heavy models hold, and which of them drains so that others get one.

Looks at a few lanes at a time, and at others the next time: what a decision takes does not depend
on how many devices there are.
"""

from collections.abc import Callable, Iterable
from itertools import islice

from .cluster import Device, Lane

_LOOKED_AT = 16

InTheWay = Callable[[Device, Lane], bool]


class HeavyLanes:
    """Lanes of heavy models, in an order that turns."""

    def __init__(self) -> None:
        # In order, so that the same events always lead to the same choices.
        self._held: dict[Lane, Device] = {}
        self._draining: dict[Lane, Device] = {}
        self._crowded: dict[Device, None] = {}

    @property
    def some_crowd(self) -> bool:
        """Whether heavy models hold more lanes of some device than others would leave them."""
        return bool(self._crowded)

    def note(self, device: Device, lane: Lane) -> None:
        """Notes that a heavy model's lane was taken or joined, or is free."""
        if lane.grants:
            self._held.setdefault(lane, device)
        else:
            self._held.pop(lane, None)
            self._draining.pop(lane, None)
        if device.heavy_count > device.heavy_limit:
            self._crowded.setdefault(device)
        else:
            self._crowded.pop(device, None)

    def drain_one(self, in_the_way: InTheWay) -> None:
        """Lets the lane with the least to do drain of those in the way, unless one does already."""
        self._drain(self._next_held(), in_the_way)

    def drain_one_of_a_crowd(self, in_the_way: InTheWay) -> None:
        """Does the same among the devices on which heavy models hold too many lanes."""
        devices = list(islice(self._crowded, _LOOKED_AT))
        self._drain([(d, lane) for d in devices for lane in d.heavy_lanes()], in_the_way)

    def _drain(self, some: Iterable[tuple[Device, Lane]], in_the_way: InTheWay) -> None:
        if any(in_the_way(device, lane) for lane, device in self._draining.items()):
            return
        found = [(device, lane) for device, lane in some if in_the_way(device, lane)]
        if found:
            device, lane = min(found, key=lambda one: one[1].seconds_left)
            lane.draining = True
            self._draining[lane] = device

    def _next_held(self) -> list[tuple[Device, Lane]]:
        looked_at = [(device, lane) for lane, device in islice(self._held.items(), _LOOKED_AT)]
        if len(self._held) > _LOOKED_AT:
            for device, lane in looked_at:
                # To the end of the line.
                del self._held[lane]
                self._held[lane] = device
        return looked_at
