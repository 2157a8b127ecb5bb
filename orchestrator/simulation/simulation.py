"""A whole run: a scenario played to its end, and what was seen of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..scheduling.admission import AdmissionLimits
from ..scheduling.cluster import DeviceSpec
from ..scheduling.costs import Costs
from ..scheduling.scheduler import Policy, Scheduler
from ..scheduling.work import HEAVY_STAGE, STAGES, StageName
from .dispatcher import LaneScheduler
from .events import EventLoop
from .mesh import Overheads, RowRules, SimulatedMesh
from .model_times import ModelTimes
from .replicas import Execution, Place
from .request_run import MODEL_ID, Outcome, SimulatedRequest
from .whole_requests import WholeRequests
from .workload import Request, Workload

PolicyName = Literal["lanes", "whole-requests"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is simulated.

    Attributes:
        lane_count: lanes of each device; 0 for any number.
        light_replica_count: replicas of each light stage, dealt out to the devices in turn; 0 for
            one on each device.
        policy: `lanes` is the scheduler that serves; `whole-requests` gives each lane to one whole
            request, as without a scheduler.
        rules: of the step loops; their `known` holds for the lane scheduler too.
        limits: of admission.
        recorded: whether every execution is kept, to be drawn.
    """

    name: str
    times: ModelTimes
    workload: Workload
    device_count: int = 1
    lane_count: int = 2
    light_replica_count: int = 0
    policy: PolicyName = "lanes"
    rules: RowRules = field(default_factory=RowRules)
    overheads: Overheads = field(default_factory=Overheads)
    limits: AdmissionLimits = field(default_factory=AdmissionLimits)
    recorded: bool = False

    @property
    def row_limit(self) -> int:
        """Rows of a full batch of the model's own size."""
        own = self.times.profile.steps[0]
        limit = own.row_limit(self.rules.min_gain) if self.rules.known else self.rules.row_limit
        return min(self.rules.row_limit, limit)


@dataclass(frozen=True, slots=True)
class Run:
    """What was seen of a scenario.

    Attributes:
        outcomes: of its requests, in the order of their ends.
        executions: of networks, in the order of their ends; empty unless recorded.
        device_busy_s: time during which each device ran anything.
        device_work_s: seconds at full speed of what each device ran.
        lane_busy_s: time during which each lane that was ever held had an execution.
        wasted_step_count: steps of pictures that ended after their caller had left.
        decision_count: tasks that got a lane.
        decision_s: processor time that the choices took, on the machine that simulated.
    """

    scenario: Scenario
    outcomes: tuple[Outcome, ...]
    executions: tuple[Execution, ...]
    device_busy_s: dict[str, float]
    device_work_s: dict[str, float]
    lane_busy_s: dict[Place, float]
    wasted_step_count: int
    decision_count: int
    decision_s: float

    @property
    def makespan_s(self) -> float:
        """From the first arrival to the last end."""
        if not self.outcomes:
            return 0.0
        first_s = min(outcome.arrival_s for outcome in self.outcomes)
        return max(outcome.ended_s for outcome in self.outcomes) - first_s


def simulate(scenario: Scenario, on_end: Callable[[], None] = lambda: None) -> Run:
    """Plays a scenario and returns what was seen; `on_end` is called after each request."""
    loop, recorder = EventLoop(), _Recorder(scenario.recorded)
    specs = make_specs(scenario)
    mesh = SimulatedMesh(
        loop,
        _scheduler(scenario, specs),
        specs,
        scenario.times,
        overheads=scenario.overheads,
        rules=scenario.rules,
        on_execution=recorder.note,
    )
    playback = _Playback(mesh, scenario.workload, on_end)
    loop.run()
    return Run(
        scenario,
        tuple(playback.outcomes),
        tuple(recorder.executions),
        {name: device.busy_s for name, device in mesh.devices.items()},
        {name: device.work_s for name, device in mesh.devices.items()},
        recorder.lane_busy_s,
        mesh.wasted_step_count,
        mesh.dispatcher.grant_count,
        mesh.dispatcher.decision_s,
    )


def make_specs(scenario: Scenario) -> tuple[DeviceSpec, ...]:
    """Returns the devices of a scenario, named as `OrchestratorSettings` names them."""
    count, light = scenario.device_count, scenario.light_replica_count or scenario.device_count

    def address(stage: StageName, index: int) -> str:
        return f"{stage}-{index if stage == HEAVY_STAGE else index % light}"

    return tuple(
        DeviceSpec(
            f"device{index}",
            {stage: address(stage, index) for stage in STAGES},
            scenario.lane_count,
        )
        for index in range(count)
    )


def _scheduler(scenario: Scenario, specs: Sequence[DeviceSpec]) -> LaneScheduler:
    if scenario.policy == "whole-requests":
        return WholeRequests(specs)
    rules, times = scenario.rules, scenario.times
    policy = Policy(
        tier_weights=rules.tier_weights,
        row_limit=rules.row_limit,
        row_limits={MODEL_ID: scenario.row_limit},
        forbidden=times.profile.forbidden_pairs if rules.known else frozenset(),
    )
    costs = Costs({MODEL_ID: times.initial_costs} if rules.known else None)
    return Scheduler(specs, policy=policy, limits=scenario.limits, costs=costs)


class _Recorder:
    """Keeps what is to be kept of executions."""

    def __init__(self, recorded: bool) -> None:
        self.executions: list[Execution] = []
        self.lane_busy_s: dict[Place, float] = {}
        self._recorded = recorded

    def note(self, one: Execution) -> None:
        busy_s = self.lane_busy_s.get(one.place, 0.0)
        self.lane_busy_s[one.place] = busy_s + one.end_s - one.start_s
        if self._recorded:
            self.executions.append(one)


class _Playback:
    """Plays a workload on a mesh.

    Attributes:
        outcomes: of the requests, in the order of their ends.
    """

    def __init__(self, mesh: SimulatedMesh, workload: Workload, on_end: Callable[[], None]) -> None:
        self.outcomes: list[Outcome] = []
        self._mesh = mesh
        self._on_end = on_end
        self._closed = workload.concurrency is not None
        self._rest = iter(workload.requests)
        if workload.concurrency is None:
            for request in workload.requests:
                mesh.loop.at(request.arrival_s, lambda request=request: self._start(request))
        else:
            for _ in range(workload.concurrency):
                self._start_next()

    def _start_next(self) -> None:
        request = next(self._rest, None)
        if request is not None:
            self._mesh.loop.at(request.arrival_s, lambda: self._start(request))

    def _start(self, request: Request) -> None:
        SimulatedRequest(self._mesh, request, self._note_end)

    def _note_end(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._on_end()
        if self._closed:
            self._start_next()
