"""Who holds which lane, who waits for one, and how long either takes, for Prometheus."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from ..services.runtime.metrics import declarations
from ..services.runtime.metrics.busy_clock import BusyClock
from ..services.runtime.metrics.exemplars import current_exemplar
from ..services.runtime.metrics.registry import Metrics
from .scheduling.cluster import DeviceSpec
from .scheduling.work import STAGES, Grant, StageName, Task

# Device, lane, stage and model, as labels are.
_Place: TypeAlias = tuple[str, str, str, str]


@dataclass(slots=True)
class _Held:
    """A lane that a model holds: since when, its calls and their rows."""

    since_s: float
    calls: set[Grant] = field(default_factory=set[Grant])

    @property
    def row_count(self) -> int:
        return sum(grant.task.work.row_count for grant in self.calls)


class LaneMetrics:
    """Observer of a dispatcher; see its `LaneObserver`.

    Args:
        metrics: where it counts.
        devices: whose lanes there are.
        tiers: whose queues are told even if nobody is in them.
    """

    def __init__(
        self, metrics: Metrics, devices: Iterable[DeviceSpec], tiers: Collection[str]
    ) -> None:
        self._tiers = tuple(tiers)
        self._waiting: set[Task] = set()
        # The metrics are fetched on a thread.
        self._lock = threading.Lock()
        self._held: dict[_Place, _Held] = {}
        self._busy: defaultdict[tuple[str, ...], BusyClock] = defaultdict(BusyClock)
        self._admission_wait = metrics.histogram(declarations.ADMISSION_WAIT_SECONDS)
        self._lane_wait = metrics.histogram(declarations.LANE_WAIT_SECONDS)
        self._stage = metrics.histogram(declarations.STAGE_SECONDS)
        lanes = {(device.name,): float(device.lane_count) for device in devices}
        metrics.read(declarations.DEVICE_LANES, lambda: lanes)
        metrics.read(declarations.QUEUE_DEPTH, self._queue_depths)
        metrics.read(declarations.LANE_BUSY_SECONDS, self._busy_seconds)
        metrics.read(declarations.LANE_CALLS, self._lane_calls)
        metrics.read(declarations.LANE_ROWS, self._lane_rows)

    def queued(self, task: Task) -> None:
        """Notes that a call waits from now on."""
        with self._lock:
            self._waiting.add(task)

    def unqueued(self, task: Task) -> None:
        """Notes that it waits no more, whether it has a lane or has left."""
        with self._lock:
            self._waiting.discard(task)

    def waited(self, task: Task, seconds: float, *, first: bool) -> None:
        """Notes how long a call has waited for its lane; `first` if it starts its picture."""
        if first:
            waits = self._admission_wait.labels(task.work.tier)
        else:
            waits = self._lane_wait.labels(task.stage)
        waits.observe(seconds, current_exemplar())

    def taken(self, grant: Grant) -> None:
        """Notes that a call has its lane."""
        place, now_s = _place(grant), time.monotonic()
        with self._lock:
            held = self._held.get(place)
            if held is None:
                held = self._held[place] = _Held(now_s)
                self._busy[place[:3]].begin(now_s)
            held.calls.add(grant)

    def left(self, grant: Grant) -> None:
        """Notes that it has left it."""
        place = _place(grant)
        with self._lock:
            held = self._held[place]
            held.calls.discard(grant)
            if not held.calls:
                del self._held[place]
                self._busy[place[:3]].end(held.since_s, time.monotonic())

    def called(self, grant: Grant, seconds: float) -> None:
        """Notes that a call has been answered."""
        task = grant.task
        self._stage.labels(task.stage, task.work.model_id).observe(seconds, current_exemplar())

    def _queue_depths(self) -> dict[tuple[str, ...], float]:
        with self._lock:
            found: Counter[tuple[StageName, str]] = Counter(
                (task.stage, task.work.tier) for task in self._waiting
            )
        known = ((stage, tier) for stage in STAGES for tier in self._tiers)
        return {**dict.fromkeys(known, 0.0), **found}

    def _busy_seconds(self) -> dict[tuple[str, ...], float]:
        with self._lock:
            now_s = time.monotonic()
            return {lane: clock.seconds(now_s) for lane, clock in self._busy.items()}

    def _lane_calls(self) -> dict[tuple[str, ...], float]:
        with self._lock:
            return {place: float(len(held.calls)) for place, held in self._held.items()}

    def _lane_rows(self) -> dict[tuple[str, ...], float]:
        with self._lock:
            return {place: float(held.row_count) for place, held in self._held.items()}


def _place(grant: Grant) -> _Place:
    stage, model = grant.task.model
    return grant.device, str(grant.lane), stage, model
