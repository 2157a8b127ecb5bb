"""The figures of a run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .bounds import LowerBound, lower_bound
from .request_run import Outcome
from .simulation import Run

_PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class TierReport:
    """What became of the requests of one tier.

    Attributes:
        latency_s: percentiles of those done, from arrival to end, by `p50`, `p95`, `p99`.
        mean_latency_s: the mean of the same.
        queue_s: percentiles of the wait for the first lane, of all that got one.
        goodput_per_s: done, and in time, a second.
        compute_s: device-seconds that one done request was charged, in the mean.
    """

    requests: int
    done: int
    refused: dict[str, int]
    cancelled: int
    expired: int
    latency_s: dict[str, float]
    mean_latency_s: float
    queue_s: dict[str, float]
    goodput_per_s: float
    compute_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of a run.

    Attributes:
        makespan_s: from the first arrival to the last end.
        bound_s: when it could have ended at best, and `bound_kind` by which bound.
        bound_ratio: the bound against the makespan: 1 is the best there is.
        throughput_per_s: pictures done a second.
        device_utilisation: share of the makespan that a device ran anything: mean and least.
        lane_utilisation: the same of lanes, by their number, over all devices.
        cost_s: device-seconds paid for each picture done: devices times makespan.
        work_s: device-seconds at full speed that were used for each picture done.
        decision_us: processor time of one scheduling decision, on the machine that simulated.
    """

    name: str
    devices: int
    lanes: int
    makespan_s: float
    bound_s: float
    bound_kind: str
    bound_ratio: float
    pictures: int
    throughput_per_s: float
    goodput_per_s: float
    device_utilisation: dict[str, float]
    lane_utilisation: dict[str, float]
    wasted_steps: int
    cost_s: float
    work_s: float
    decision_us: float
    tiers: dict[str, TierReport]

    def as_json(self) -> dict[str, Any]:
        """Returns it as `--json` prints it."""
        return asdict(self)


def make_report(run: Run) -> Report:
    """Returns the figures of a run."""
    scenario, span_s = run.scenario, run.makespan_s
    done = [outcome for outcome in run.outcomes if outcome.state == "done"]
    pictures = sum(outcome.request.picture_count for outcome in done)
    bound: LowerBound = lower_bound(run)
    busy = [seconds / span_s if span_s else 0.0 for seconds in run.device_busy_s.values()]
    return Report(
        name=scenario.name,
        devices=scenario.device_count,
        lanes=scenario.lane_count,
        makespan_s=span_s,
        bound_s=bound.seconds,
        bound_kind=bound.kind,
        bound_ratio=_ratio(bound.seconds, span_s),
        pictures=pictures,
        throughput_per_s=_ratio(pictures, span_s),
        goodput_per_s=_ratio(sum(one.request.picture_count for one in done if one.in_time), span_s),
        device_utilisation={"mean": float(np.mean(busy)), "least": min(busy)},
        lane_utilisation=_lanes(run),
        wasted_steps=run.wasted_step_count,
        cost_s=_ratio(scenario.device_count * span_s, pictures),
        work_s=_ratio(sum(run.device_work_s.values()), pictures),
        decision_us=_ratio(run.decision_s * 1e6, run.decision_count),
        tiers={tier: _tier(run, tier) for tier in _tiers(run)},
    )


def _tiers(run: Run) -> Sequence[str]:
    return sorted({outcome.request.tier for outcome in run.outcomes})


def _tier(run: Run, tier: str) -> TierReport:
    own = [outcome for outcome in run.outcomes if outcome.request.tier == tier]
    states = Counter(outcome.state for outcome in own)
    done = [outcome for outcome in own if outcome.state == "done"]
    latencies = [outcome.latency_s for outcome in done]
    return TierReport(
        requests=len(own),
        done=len(done),
        refused=dict(Counter(outcome.reason for outcome in own if outcome.state == "refused")),
        cancelled=states["cancelled"],
        expired=states["expired"],
        latency_s=percentiles(latencies),
        mean_latency_s=_ratio(sum(latencies), len(latencies)),
        queue_s=percentiles([_queue_s(one) for one in own if one.started_s is not None]),
        goodput_per_s=_ratio(sum(one.in_time for one in done), run.makespan_s),
        compute_s=_ratio(sum(one.compute_s for one in done), len(done)),
    )


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Returns the 50th, 95th and 99th of some values; empty of none."""
    if not values:
        return {}
    found = np.percentile(np.asarray(values), _PERCENTILES)
    return {f"p{rank}": float(value) for rank, value in zip(_PERCENTILES, found, strict=True)}


def _queue_s(outcome: Outcome) -> float:
    return (outcome.started_s or 0.0) - outcome.arrival_s


def _lanes(run: Run) -> dict[str, float]:
    busy: dict[str, float] = {}
    for place, seconds in run.lane_busy_s.items():
        busy[str(place.lane)] = busy.get(str(place.lane), 0.0) + seconds
    whole_s = run.makespan_s * run.scenario.device_count
    return {lane: _ratio(busy[lane], whole_s) for lane in sorted(busy)}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
