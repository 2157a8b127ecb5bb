"""The one scheduler: who may come in, whose task runs next, and in which device's lane.

An object without a clock, a socket or a thread: whoever drives it says what time it is and what
has happened, and asks with `dispatch` which tasks may run now. The live orchestrator drives it
with the real clock and real calls (`../dispatcher.py`), the simulator with a virtual clock
(`../simulation/`), so what is simulated is the code that serves.

Between ready tasks:

1. The diffusion lane is fed first: what is ready to be denoised goes to the device with the least
   work that has room for its rows.
2. Then pictures are finished before new ones are started, unless devices starve for rows and
   little waits to be finished: then what is nearest to the diffusion model goes first.
3. New pictures start only so far ahead that every device has its next batch prepared.
4. Inside a line, tiers get their shares, tenants take turns, the least slack goes first.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...services.runtime.deadlines import has_run_out
from ...services.runtime.errors import DeadlineTooShort
from ...services.runtime.row_scheduling import DEFAULT_TIER_WEIGHTS
from .accuracy import Accuracy, FinishSlack
from .admission import AdmissionLimits, Backlog, Estimate, check_admission
from .cluster import Device, DeviceSpec, Lane, Pairs
from .costs import Costs
from .fair_line import FairLine
from .heavy_lanes import HeavyLanes
from .placement import Placement, Room
from .task_lines import TaskLines
from .work import (
    FINISHING_STAGE,
    HEAVY_STAGE,
    Grant,
    Model,
    Phase,
    Picture,
    StageName,
    Task,
    Ticket,
    Work,
)

# Light stages, the one nearest to the finished picture first.
_FINISHING: tuple[StageName, ...] = ("postprocessing", "preprocessing", "text_encoding")
_PREPARING: tuple[StageName, ...] = ("preprocessing", "text_encoding", "postprocessing")


@dataclass(frozen=True, slots=True)
class Policy:
    """The scheduler's settings.

    Attributes:
        tier_weights: share of each tier while several wait; one that is not named has 1.
        row_limit: rows of a full batch.
        row_limits: the same by model ID, where it is less.
        room_batches: batches' worth of rows of each tier that a device has in flight.
        ahead_batches: batches' worth of rows that are prepared ahead for each device.
        light_calls: calls of one light model in its lane at a moment; the second hides the way to
            the service.
        heavy_turn_s: how long a heavy model keeps its lane while another heavy one waits.
        patience_s: deadline, after its arrival, of a request that has none.
        finish_slack: time that is kept for what comes after the steps, as a multiple of its cost,
            as long as nobody knows how long it takes.
        forbidden: pairs of stages that lose when they share a device.
    """

    tier_weights: Mapping[str, float] = field(default_factory=lambda: DEFAULT_TIER_WEIGHTS)
    row_limit: int = 8
    row_limits: Mapping[str, int] = field(default_factory=dict[str, int])
    room_batches: float = 2.0
    ahead_batches: float = 1.0
    light_calls: int = 2
    heavy_turn_s: float = 2.0
    patience_s: float = 60.0
    finish_slack: float = 1.5
    forbidden: Pairs = frozenset()

    def row_limit_of(self, work: Work) -> int:
        """Returns the rows of a full batch of a request's model."""
        return min(self.row_limit, self.row_limits.get(work.model_id, self.row_limit))


class Scheduler:
    """The policy over some devices. Every method takes the time and returns at once.

    Attributes:
        costs: estimates, which whoever drives it feeds.
        backlog: what is admitted and not done.
    """

    def __init__(
        self,
        devices: Sequence[DeviceSpec],
        *,
        policy: Policy | None = None,
        limits: AdmissionLimits | None = None,
        costs: Costs | None = None,
    ) -> None:
        self._policy = policy or Policy()
        self._limits = limits or AdmissionLimits()
        self.costs = costs or Costs()
        self.backlog = Backlog()
        self._devices = [
            Device(spec, index, self._policy.forbidden) for index, spec in enumerate(devices)
        ]
        self._by_name = {device.name: device for device in self._devices}
        self._placement = Placement(self._devices, self._room)
        self._lines = TaskLines(self._policy.tier_weights)
        self._absent: set[tuple[StageName, str]] = set()
        self._heavy_device_count = sum(1 for _ in self._hosts(HEAVY_STAGE))
        # By tier: rows of pictures that have started and are not in a diffusion lane yet.
        self._ahead_rows: dict[str, int] = {}
        self._lane_rows = 0
        self._accuracy: dict[tuple[str, str], Accuracy] = {}
        self._finish_slack: dict[str, FinishSlack] = {}
        # When each heavy model last took a lane.
        self._taken_s: dict[Model, float] = {}
        self._heavy_lanes = HeavyLanes()
        # Models that some task waits for which may run; None until they are asked for.
        self._waiting: Sequence[Model] | None = None

    @property
    def devices(self) -> Sequence[Device]:
        """All devices."""
        return self._devices

    def admit(self, work: Work, now_s: float) -> Ticket:
        """Returns the ticket of a request that may come in; `leave` gives it back.

        Raises:
            Overloaded: too much waits.
            DeadlineTooShort: it cannot be done in its time.
        """
        estimate, accuracy = self.estimate(work), self._accuracy_of(work)
        try:
            check_admission(work, self.backlog, self._limits, estimate, now_s)
        except DeadlineTooShort as refusal:
            # Without a time to come back, the work itself takes too long.
            if refusal.retry_delay_s is None or not accuracy.doubts():
                raise
        accuracy.enter()
        ticket = Ticket(work, now_s, estimate.raw_s)
        seconds = self.costs.picture_seconds(work, self._policy.row_limit_of(work))
        ticket.pictures = tuple(Picture(ticket, seconds) for _ in range(work.picture_count))
        self.backlog.admitted += 1
        self.backlog.waiting += 1
        self.backlog.add(work.tier, seconds * work.picture_count)
        return ticket

    def estimate(self, work: Work) -> Estimate:
        """Returns what a request that comes now may expect."""
        costs, policy = self.costs, self._policy
        device_count = max(1, self._heavy_device_count)
        wait_s = self.backlog.wait_s(work.tier, policy.tier_weights, device_count)
        full = policy.row_limit_of(work)
        queue_s = wait_s + costs.picture_seconds(work, full) * work.picture_count / device_count
        light_s = costs.light_s(work)
        # In batches that are as full as the devices are.
        rows = min(full, self._lane_rows / device_count + work.row_count)
        # The row scheduler keeps a step as short as its leader's deadline asks for. So what has to
        # be done in time is its own rows alone, and half the step that runs before.
        running_rows = min(full, self._lane_rows / device_count)
        running_s = costs.steps_s(work, running_rows) / work.step_count / 2 if running_rows else 0.0
        alone_s = costs.steps_s(work, work.row_count)
        return Estimate(
            wait_s=wait_s,
            raw_s=max(queue_s, costs.steps_s(work, rows)) + light_s,
            soonest_s=max(queue_s * self._accuracy_of(work).factor, running_s + alone_s) + light_s,
            least_s=costs.least_s(work),
            starts=self.backlog.waiting == 0 and self._may_start(work),
        )

    def finish_reserve_s(self, work: Work) -> float:
        """Returns how much of a request's time its steps have to leave to what comes after them."""
        return self._finish_cost_s(work) * self._finish_slack_of(work).factor

    def leave(self, ticket: Ticket, now_s: float, *, finished: bool) -> None:
        """Takes a request out, whatever became of it. It has no tasks any more."""
        work, took_s = ticket.work, now_s - ticket.admitted_s
        accuracy = self._accuracy_of(work)
        accuracy.leave()
        if finished or has_run_out(None if work.deadline_s is None else work.deadline_s - now_s):
            accuracy.observe(ticket.estimate_s, took_s, finished=finished)
            self._observe_finish(ticket, now_s, finished=finished)
        self.backlog.admitted -= 1
        if not ticket.started:
            self.backlog.waiting -= 1
        for picture in ticket.pictures:
            self.backlog.add(work.tier, -picture.seconds_left)
            if picture.phase is Phase.PREPARING:
                self._ahead_rows[work.tier] -= work.row_count
        self._waiting = None

    def enqueue(self, task: Task) -> None:
        """Adds a task that is ready to run."""
        work, ticket = task.work, task.picture.ticket
        deadline_s = ticket.admitted_s + self._policy.patience_s
        if work.deadline_s is not None:
            deadline_s = min(deadline_s, work.deadline_s)
        # While it waits everyone's slack shrinks alike, so the order stays.
        urgency = deadline_s - self.costs.steps_s(work, self._policy.row_limit_of(work))
        self._lines.push(task, urgency)
        self._waiting = None

    def withdraw(self, task: Task) -> None:
        """Takes out a task that has not been granted."""
        self._lines.remove(task)
        self._waiting = None

    def dispatch(self, now_s: float) -> list[Grant]:
        """Returns the tasks that may run now; each is to be released when it has ended."""
        grants: list[Grant] = []
        if not self._waiting_models():
            return grants
        while (grant := self._next_grant(now_s)) is not None:
            grants.append(grant)
        self._make_way(now_s)
        return grants

    def note_steps(self, grant: Grant, completed_step_count: int) -> None:
        """Notes how many steps of a picture are done."""
        picture, work = grant.task.picture, grant.task.work
        left_s = grant.seconds * max(0.0, 1 - completed_step_count / work.step_count)
        self.backlog.add(work.tier, min(0.0, left_s - picture.seconds_left))
        picture.seconds_left = min(picture.seconds_left, left_s)
        device = self._by_name[grant.device]
        device.shorten(grant, left_s)
        self._placement.changed(device)

    def release(self, grant: Grant, now_s: float) -> None:
        """Takes a task that has ended out of its lane."""
        device = self._by_name[grant.device]
        lane = device.take_out(grant)
        if grant.task.heavy:
            self._lane_rows -= grant.task.work.row_count
            if not grant.seconds_left:
                grant.task.picture.denoised_s = now_s
        self._note_change(device, lane)

    def set_usable(self, stage: StageName, address: str, *, usable: bool) -> None:
        """Notes whether a replica takes calls; nothing is granted to one that does not."""
        (self._absent.discard if usable else self._absent.add)((stage, address))
        for device in self._devices:
            if device.addresses.get(stage) == address:
                self._placement.changed(device)
        self._heavy_device_count = sum(1 for _ in self._hosts(HEAVY_STAGE))
        # How many may start follows from it.
        self._waiting = None

    def has_replica(self, stage: StageName, besides: frozenset[str] = frozenset()) -> bool:
        """Returns whether a stage has a replica that takes calls, besides some."""
        return any(device.addresses[stage] not in besides for device in self._hosts(stage))

    def knows_replica(self, stage: StageName, besides: frozenset[str]) -> bool:
        """Returns whether a stage has a replica besides some, even if it takes no calls now."""
        named = {device.addresses.get(stage) for device in self._devices} - {None}
        return bool(named - besides)

    def _next_grant(self, now_s: float) -> Grant | None:
        for line in self._heavy_lines():
            for _, task in line.heads():
                if (device := self._placement.find(task)) is not None:
                    return self._grant(task, device, now_s)
        for line in self._light_lines():
            for _, task in line.heads():
                if task.picture.phase is Phase.WAITING and not self._may_start(task.work):
                    continue
                if (device := self._placement.find(task)) is not None:
                    return self._grant(task, device, now_s)
                # Lanes that it could have are not for those behind it: they would never empty.
                return None
        return None

    def _grant(self, task: Task, device: Device, now_s: float) -> Grant:
        full = self._policy.row_limit_of(task.work)
        cost = self.costs.call_seconds(task.stage, task.work, full)
        self._lines.pop(task, cost or 1.0)
        self._advance(task)
        grant = Grant(task, device.name, 0, device.addresses[task.stage], cost, cost)
        if task.heavy and device.lane_of(task.model) is None:
            self._taken_s[task.model] = now_s
        lane = device.put(grant, task.model, now_s)
        grant.lane = lane.number
        self._note_change(device, lane)
        self._waiting = None
        return grant

    def _advance(self, task: Task) -> None:
        picture, work = task.picture, task.work
        if picture.phase is Phase.WAITING:
            if not picture.ticket.started:
                self.backlog.waiting -= 1
            picture.phase = Phase.PREPARING
            self._ahead_rows[work.tier] = self._ahead_rows.get(work.tier, 0) + work.row_count
        if task.heavy:
            if picture.phase is Phase.PREPARING:
                picture.phase = Phase.DENOISING
                self._ahead_rows[work.tier] -= work.row_count
            self._lane_rows += work.row_count

    def _note_change(self, device: Device, lane: Lane) -> None:
        if lane.model[0] == HEAVY_STAGE:
            self._heavy_lanes.note(device, lane)
        self._placement.changed(device)

    def _room(self, device: Device, task: Task) -> Room:
        address = device.addresses[task.stage]
        if (task.stage, address) in self._absent:
            return Room.FULL
        if address in task.excluded:
            return Room.BARRED
        lane = device.lane_of(task.model)
        if lane is None:
            return self._room_for_lane(device, task)
        if task.heavy:
            rows = lane.tier_rows.get(task.work.tier, 0)
            most = self._policy.row_limit_of(task.work) * self._policy.room_batches
            joins = rows == 0 or rows + task.work.row_count <= most
        else:
            joins = device.unlimited or len(lane.grants) < self._policy.light_calls
        return Room.FREE if joins and not lane.draining else Room.FULL

    def _room_for_lane(self, device: Device, task: Task) -> Room:
        if not device.has_lane_for(task.model):
            return Room.FULL
        if task.heavy and not device.unlimited:
            others = [model for model in self._waiting_models() if model != task.model]
            light = {stage for stage, _ in others if stage != HEAVY_STAGE}
            most = device.heavy_limit if light else 1
            if others and device.heavy_count >= most:
                return Room.BARRED
            if any(frozenset((task.stage, stage)) in self._policy.forbidden for stage in light):
                return Room.BARRED
        return Room.FREE

    def _make_way(self, now_s: float) -> None:
        """Lets lanes drain that keep others out, one for each model that waits."""
        for model in self._waiting_models():
            if model[0] == HEAVY_STAGE:
                self._end_a_turn(model, now_s)
            elif frozenset((HEAVY_STAGE, model[0])) in self._policy.forbidden:
                self._heavy_lanes.drain_one(lambda device, _, m=model: m[0] in device.addresses)
            elif self._heavy_lanes.some_crowd:
                self._heavy_lanes.drain_one_of_a_crowd(
                    lambda device, _, m=model: m[0] in device.addresses
                )

    def _end_a_turn(self, model: Model, now_s: float) -> None:
        """Lets a lane drain that another heavy model has had for its turn."""
        if len(self._taken_s) < 2 and model in self._taken_s:
            return

        def is_over(device: Device, lane: Lane) -> bool:
            if device.lane_of(model) is not None or device.has_lane_for(model):
                return False
            address = device.addresses[HEAVY_STAGE]
            had_its_turn = now_s - lane.taken_s >= self._policy.heavy_turn_s
            return (lane.draining or had_its_turn) and (HEAVY_STAGE, address) not in self._absent

        self._heavy_lanes.drain_one(is_over)

    def _heavy_lines(self) -> list[FairLine[Task]]:
        """Returns the lines of heavy models, the one first that took a lane longest ago."""
        lines = self._lines.ready[HEAVY_STAGE]
        if len(lines) < 2:
            return list(lines.values())
        longest_ago = sorted(lines, key=lambda model: self._taken_s.get(model, -math.inf))
        return [lines[model] for model in longest_ago]

    def _light_lines(self) -> Iterator[FairLine[Task]]:
        for stage in _PREPARING if self._hungry() else _FINISHING:
            yield from self._lines.ready[stage].values()
            yield from self._lines.starting[stage].values()

    def _hungry(self) -> bool:
        """Whether devices could denoise more, and little waits to be finished."""
        if self._lane_rows >= self._heavy_device_count * self._policy.row_limit:
            return False
        if self._lines.ready[HEAVY_STAGE]:
            return False
        unfinished = sum(len(line) for line in self._lines.ready["postprocessing"].values())
        return unfinished <= self._heavy_device_count * self._policy.light_calls

    def _may_start(self, work: Work) -> bool:
        ahead = self._ahead_rows.get(work.tier, 0)
        batch = self._policy.row_limit_of(work) * self._policy.ahead_batches
        full = self._heavy_device_count * batch
        return ahead == 0 or ahead + work.row_count <= full

    def _waiting_models(self) -> Sequence[Model]:
        """Returns the models that some task waits for which may run."""
        if self._waiting is None:
            found = dict.fromkeys(self._lines.waiting())
            for lines in self._lines.starting.values():
                for model, line in lines.items():
                    if any(self._may_start(task.work) for _, task in line.heads()):
                        found[model] = None
            self._waiting = tuple(found)
        return self._waiting

    def _hosts(self, stage: StageName) -> Iterator[Device]:
        for device in self._devices:
            address = device.addresses.get(stage)
            if address is not None and (stage, address) not in self._absent:
                yield device

    def _observe_finish(self, ticket: Ticket, now_s: float, *, finished: bool) -> None:
        """Learns how long a request took after its last step, if it got so far."""
        pictures, cost_s = ticket.pictures, self._finish_cost_s(ticket.work)
        denoised_s = [one.denoised_s for one in pictures if one.denoised_s is not None]
        if cost_s and len(denoised_s) == len(pictures):
            took_s = now_s - max(denoised_s)
            self._finish_slack_of(ticket.work).observe(cost_s, took_s, finished=finished)

    def _finish_cost_s(self, work: Work) -> float:
        return self.costs.call_seconds(FINISHING_STAGE, work, self._policy.row_limit_of(work))

    def _finish_slack_of(self, work: Work) -> FinishSlack:
        return self._finish_slack.setdefault(work.model_id, FinishSlack(self._policy.finish_slack))

    def _accuracy_of(self, work: Work) -> Accuracy:
        return self._accuracy.setdefault((work.model_id, work.tier), Accuracy())
