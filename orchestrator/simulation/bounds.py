"""How soon a run could have ended at the very best, whatever the policy.

Two bounds, and the later one holds:

*Critical path.* No request ends before its arrival, its calls before diffusion, its steps with no
neighbour in them, and its calls after, all at full speed, one picture beside the other.

*Work of a device.* The diffusion replica of a device takes one step after the other, so its steps,
in batches of the cheapest size, follow one another. Before the first of them some picture has to be
prepared, after the last one some has to be finished. All other light calls run beside steps at
best, which costs what the device loses by it: with `a` and `b` the speeds of a step and a light
call beside each other, `(1 - a) / b` seconds for each second of light work; or they run beside each
other. With one lane nothing runs beside anything.

Overheads of the mesh are in neither.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..scheduling.work import HEAVY_STAGE, STAGES, StageName
from .model_times import ModelTimes
from .replicas import SizePx
from .request_run import Outcome
from .simulation import Run, Scenario
from .workload import Request

# Light models beside the diffusion model that are looked at where lanes have no limit.
_MOST_LIGHT = 4


@dataclass(frozen=True, slots=True)
class LowerBound:
    """When a run could have ended, from its first arrival.

    Attributes:
        path_s: by the critical path.
        work_s: by the work of the devices.
    """

    path_s: float
    work_s: float

    @property
    def seconds(self) -> float:
        """The later one."""
        return max(self.path_s, self.work_s)

    @property
    def kind(self) -> str:
        """Which one that is."""
        return "per-device work" if self.work_s >= self.path_s else "critical path"


@dataclass(frozen=True, slots=True)
class _Parts:
    """Seconds at full speed of one picture before, in and after the diffusion stage."""

    head_s: float
    heavy_s: float
    path_s: float
    tail_s: float


def lower_bound(run: Run) -> LowerBound:
    """Returns the bound for what a run has done; work that was not finished is left out."""
    done = [outcome for outcome in run.outcomes if outcome.state == "done"]
    if not done:
        return LowerBound(0.0, 0.0)
    first_s = min(outcome.arrival_s for outcome in run.outcomes)
    scenario, closed = run.scenario, run.scenario.workload.concurrency is not None
    paths = [
        alone_s(scenario, one.request) + (0.0 if closed else one.arrival_s - first_s)
        for one in done
    ]
    return LowerBound(max(paths), _work_s(scenario, done))


def alone_s(scenario: Scenario, request: Request) -> float:
    """Returns what a request takes on an idle mesh, one picture beside the other."""
    parts = _parts(scenario, request)
    return parts.head_s + parts.path_s + parts.tail_s


def device_s(scenario: Scenario, request: Request) -> float:
    """Returns the time of a busy device that a request costs at least."""
    lanes = scenario.lane_count
    costs = {s: 1.0 if lanes == 1 else _beside_cost(scenario, s) for s in STAGES}
    light_s = sum(s * costs[stage] for stage, s in _light(scenario.times, request).items())
    heavy_s = _parts(scenario, request).heavy_s / _heavy_speed(scenario)
    return (heavy_s + light_s) * request.picture_count


def _work_s(scenario: Scenario, done: Sequence[Outcome]) -> float:
    """Returns the mean over the devices of what each needs at least."""
    count = scenario.device_count
    heavy_s, light_s, ends_s = 0.0, dict[StageName, float](), float("inf")
    for outcome in done:
        request = outcome.request
        parts = _parts(scenario, request)
        heavy_s += parts.heavy_s * request.picture_count
        ends_s = min(ends_s, parts.head_s + parts.tail_s)
        for stage, seconds in _light(scenario.times, request).items():
            light_s[stage] = light_s.get(stage, 0.0) + seconds * request.picture_count
    heavy_s /= _heavy_speed(scenario) * count
    if scenario.lane_count == 1:
        return heavy_s + sum(light_s.values()) / count
    costs = {stage: _beside_cost(scenario, stage) for stage in light_s}
    beside_s = sum(seconds / count * costs[stage] for stage, seconds in light_s.items())
    return heavy_s + ends_s + max(0.0, beside_s - ends_s * max(costs.values()))


def _parts(scenario: Scenario, request: Request) -> _Parts:
    times, size = scenario.times, request.size_px or scenario.times.size_px
    calls = times.calls(request.row_count)
    middle = next(i for i, call in enumerate(calls) if call.stage == HEAVY_STAGE)
    return _Parts(
        head_s=sum(times.call_seconds(call, size) for call in calls[:middle]),
        heavy_s=request.step_count * request.row_count * _row_s(scenario, request, size),
        path_s=request.step_count * times.step_seconds(request.row_count, size),
        tail_s=sum(times.call_seconds(call, size) for call in calls[middle + 1 :]),
    )


def _row_s(scenario: Scenario, request: Request, size: SizePx) -> float:
    """Returns what a row of a step costs in the cheapest batch that is allowed."""
    if scenario.policy == "whole-requests":
        most = request.row_count * request.picture_count
    else:
        most = max(scenario.rules.row_limit, request.row_count)
    counts = range(request.row_count, max(most, request.row_count) + 1)
    return min(scenario.times.step_seconds(rows, size) / rows for rows in counts)


def _light(times: ModelTimes, request: Request) -> dict[StageName, float]:
    found: dict[StageName, float] = {}
    for call in times.calls(request.row_count):
        if call.stage != HEAVY_STAGE:
            seconds = times.call_seconds(call, request.size_px or times.size_px)
            found[call.stage] = found.get(call.stage, 0.0) + seconds
    return found


def _heavy_speed(scenario: Scenario) -> float:
    """Returns how much of a diffusion model a device does at once: more than one in the control."""
    lanes = scenario.lane_count if scenario.policy == "whole-requests" else 1
    speeds = scenario.times.sharing.speeds
    return max(sum(speeds(_some(HEAVY_STAGE, count))) for count in range(1, lanes + 1))


def _beside_cost(scenario: Scenario, stage: StageName) -> float:
    """Returns the device-seconds that a second of a light stage costs at best."""
    speeds = scenario.times.sharing.speeds
    most = scenario.lane_count - 1 if scenario.lane_count else _MOST_LIGHT
    costs: list[float] = []
    for count in range(1, most + 1):
        heavy, *light = speeds([HEAVY_STAGE, *_some(stage, count)])
        costs.append((1 - heavy) / sum(light))
        costs.append(1 / sum(speeds(_some(stage, count + 1))))
    return max(0.0, min(costs))


def _some(stage: StageName, count: int) -> list[StageName]:
    return [stage for _ in range(count)]
