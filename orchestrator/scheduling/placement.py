"""Which device a task goes to: the least loaded one that has room for it.

Devices lie in a heap for each model (of a heavy one, for each tier of it), by load. An entry holds
while its device has not changed since; whatever changes a device lets it be entered anew, so a full
one can be left out. A device is entered when a heap is next asked, however often it has changed
until then. A choice among a thousand devices then costs as much as the few that are looked at.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from .cluster import Device
from .work import Model, StageName, Task

_MOST_STALE = 8

# Calls that go before, seconds of work, rows (all that is known of a model that has not run),
# index, stamp.
_Entry: TypeAlias = tuple[int, float, int, int, int]


class Room(Enum):
    """Whether a task may go to a device."""

    FREE = "free"
    FULL = "full"
    """Not before the device changes."""
    BARRED = "barred"
    """Not this task, or not while others wait."""


@dataclass(eq=False, slots=True)
class _Heap:
    """The devices that host a stage, by load; those that have changed are entered when asked."""

    stage: StageName
    entries: list[_Entry]
    changed: set[Device] = field(default_factory=set[Device])


class Placement:
    """Finds devices for tasks.

    Args:
        devices: all of them.
        room: tells whether a task may go to a device now.
    """

    def __init__(self, devices: Sequence[Device], room: Callable[[Device, Task], Room]) -> None:
        self._devices = devices
        self._room = room
        # By who asks for them.
        self._heaps: dict[tuple[Model, str], _Heap] = {}

    def find(self, task: Task) -> Device | None:
        """Returns the least loaded device that has room for a task, or None."""
        heap = self._entries(task)
        barred: list[_Entry] = []
        found: Device | None = None
        while heap:
            entry = heap[0]
            device = self._devices[entry[3]]
            room = self._room(device, task) if entry[4] == device.stamp else Room.FULL
            if room is Room.FREE:
                found = device
                break
            heapq.heappop(heap)
            if room is Room.BARRED:
                barred.append(entry)
        for entry in barred:
            heapq.heappush(heap, entry)
        return found

    def changed(self, device: Device) -> None:
        """Notes that a device has changed."""
        for heap in self._heaps.values():
            heap.changed.add(device)

    def hosts(self, stage: StageName) -> Iterator[Device]:
        """Yields the devices that have a replica of a stage."""
        return (device for device in self._devices if stage in device.addresses)

    def _entries(self, task: Task) -> list[_Entry]:
        # Only a heavy model's lane has rooms by tier.
        key = task.model, task.work.tier if task.heavy else ""
        heap = self._heaps.get(key)
        if heap is None:
            hosts = set(self.hosts(task.stage))
            heap = self._heaps[key] = _Heap(task.stage, [], hosts)
        for device in heap.changed:
            # A full one would only be dropped again: most are, and each change would cost twice.
            if heap.stage in device.addresses and self._room(device, task) is not Room.FULL:
                heapq.heappush(heap.entries, _entry(device, task))
        heap.changed.clear()
        if len(heap.entries) > _MOST_STALE * (len(self._devices) + 1):
            # What is out of date and never comes to the top would stay for ever.
            devices = self._devices
            heap.entries[:] = [e for e in heap.entries if e[4] == devices[e[3]].stamp]
            heapq.heapify(heap.entries)
        return heap.entries


def _entry(device: Device, task: Task) -> _Entry:
    # A light model does one call after the other, however little else its device has to do.
    lane = None if task.heavy else device.lane_of(task.model)
    before = len(lane.grants) if lane else 0
    return before, device.seconds_left, device.row_count, device.index, device.stamp
