"""What holds of every run. Run: pytest tests/unit/simulation/test_runs.py"""

import itertools
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sangsang.orchestrator.scheduling.admission import AdmissionLimits
from sangsang.orchestrator.simulation.bounds import lower_bound
from sangsang.orchestrator.simulation.mesh import Overheads, RowRules
from sangsang.orchestrator.simulation.model_times import timed_times
from sangsang.orchestrator.simulation.report import make_report
from sangsang.orchestrator.simulation.simulation import Run, Scenario, simulate
from sangsang.orchestrator.simulation.workload import Request, Workload
from sangsang.services.runtime.engines.timed import TimedProfile
from sangsang.services.runtime.engines.timed_device import SharingRates

SECONDS = {
    "text_encoder": {1: 0.01},
    "unet": {1: 0.1, 8: 0.4},
    "vae_decoder": {1: 0.15},
    "vae_encoder": {1: 0.15},
}
TIMES = timed_times(TimedProfile("a device", "f16", SECONDS, SharingRates((1.0, 0.6, 0.4))))
ENDED = {"done", "refused", "cancelled", "expired"}

seconds = st.floats(0.0, 3.0)
requests = st.builds(
    Request,
    request_id=st.just(""),
    arrival_s=seconds,
    tier=st.sampled_from(["free", "pro"]),
    tenant=st.sampled_from(["a", "b"]),
    step_count=st.integers(1, 6),
    row_count=st.integers(1, 2),
    picture_count=st.integers(1, 3),
    size_px=st.sampled_from([None, (256, 256)]),
    deadline_s=st.none() | seconds,
    cancel_s=st.none() | seconds,
)
patient = st.builds(lambda request: replace(request, deadline_s=None, cancel_s=None), requests)


def scenarios(of):
    """Small meshes of any shape with some requests."""

    def workload(drawn, concurrency):
        numbered = [replace(one, request_id=f"{n}") for n, one in enumerate(drawn)]
        in_order = sorted(numbered, key=lambda one: one.arrival_s)
        return Workload(tuple(in_order), concurrency)

    return st.builds(
        Scenario,
        name=st.just("a mesh"),
        times=st.just(TIMES),
        workload=st.builds(
            workload, st.lists(of, min_size=1, max_size=12), st.none() | st.integers(1, 4)
        ),
        device_count=st.integers(1, 3),
        lane_count=st.integers(0, 3),
        light_replica_count=st.integers(0, 2),
        rules=st.builds(
            RowRules, row_limit=st.integers(2, 8), min_gain=st.just(0.1), known=st.booleans()
        ),
        overheads=st.sampled_from(
            [Overheads(), Overheads(0.01, {"diffusion": 0.002, "text_encoding": 0.001}, 0.001)]
        ),
        recorded=st.just(True),
    )


some = settings(max_examples=40, deadline=None)


@some
@given(scenarios(requests))
def test_every_request_ends_once(scenario):
    run = simulate(scenario)
    ids = [outcome.request.request_id for outcome in run.outcomes]
    assert sorted(ids) == sorted(one.request_id for one in scenario.workload.requests)
    assert {outcome.state for outcome in run.outcomes} <= ENDED
    for outcome in run.outcomes:
        request = outcome.request
        assert (outcome.state == "refused") == bool(outcome.reason)
        if outcome.state == "expired":
            assert outcome.latency_s == pytest.approx(request.deadline_s)
        if outcome.state == "cancelled":
            assert outcome.latency_s == pytest.approx(request.cancel_s)
        if outcome.state == "done" and request.deadline_s is not None:
            assert outcome.latency_s <= request.deadline_s


@some
@given(scenarios(patient))
def test_work_is_conserved(scenario):
    run = simulate(scenario)
    assert all(outcome.state == "done" for outcome in run.outcomes)
    assert run.wasted_step_count == 0
    steps = Counter(
        (picture, step)
        for one in run.executions
        for picture, step in zip(one.pictures, one.steps, strict=False)
    )
    expected = [
        ((request.request_id, picture), step)
        for request in scenario.workload.requests
        for picture in range(request.picture_count)
        for step in range(request.step_count)
    ]
    # Each step of each picture once, and one text and one decode for each.
    assert steps == Counter(expected)
    light = Counter(one.stage for one in run.executions if not one.steps)
    pictures = sum(request.picture_count for request in scenario.workload.requests)
    assert light == {"text_encoding": pictures, "postprocessing": pictures}
    assert sum(run.device_work_s.values()) == pytest.approx(_work_s(run))


def _work_s(run: Run) -> float:
    sizes = {
        request.request_id: request.size_px or TIMES.size_px
        for request in run.scenario.workload.requests
    }
    total = 0.0
    for one in run.executions:
        size = sizes[one.pictures[0][0]]
        if one.steps:
            total += TIMES.step_seconds(one.row_count, size)
        else:
            [call] = [c for c in TIMES.calls(1) if c.stage == one.stage]
            total += TIMES.call_seconds(call, size)
    return total


@some
@given(scenarios(patient))
def test_lanes_are_kept(scenario):
    # Of those who leave, what runs goes on to its end beside whoever gets their lane.
    by_lane = defaultdict(list)
    for one in simulate(scenario).executions:
        by_lane[one.place].append(one)
    for place, own in by_lane.items():
        if scenario.lane_count:
            assert place.lane < scenario.lane_count
        own.sort(key=lambda one: one.start_s)
        # One model at a time, and one execution of it at a time.
        for before, after in itertools.pairwise(own):
            assert before.end_s <= after.start_s + 1e-9


@some
@given(scenarios(requests))
def test_the_same_inputs_give_the_same_run(scenario):
    first, second = simulate(scenario), simulate(scenario)
    assert replace(first, decision_s=0.0) == replace(second, decision_s=0.0)


@some
@given(scenarios(patient))
def test_no_run_is_better_than_its_lower_bound(scenario):
    run = simulate(scenario)
    if scenario.workload.concurrency is None:
        assert run.makespan_s >= lower_bound(run).seconds - 1e-9
    assert make_report(run).bound_ratio <= 1 + 1e-9


def test_rows_that_come_together_share_steps():
    twins = tuple(Request(f"{n}", 0.0, step_count=4) for n in range(2))
    run = simulate(Scenario("twins", TIMES, Workload(twins), recorded=True))
    assert {one.row_count for one in run.executions if one.steps} == {1, 2}


def test_a_step_that_runs_when_its_caller_leaves_is_wasted_and_no_more():
    # Text ends at 0.01, steps of 0.1 follow: the caller leaves in the second.
    leaves = Request("0", 0.0, step_count=6, cancel_s=0.15)
    run = simulate(Scenario("one", TIMES, Workload((leaves,)), recorded=True))
    assert run.wasted_step_count == 1
    assert [one.label for one in run.executions] == ["text", "diffusion", "diffusion"]


def test_a_call_whose_caller_left_while_it_waited_for_the_engine_is_not_executed():
    stays, leaves = Request("0", 0.0), Request("1", 0.0, cancel_s=0.005)
    run = simulate(Scenario("two", TIMES, Workload((stays, leaves)), recorded=True))
    assert {name for one in run.executions for name, _ in one.pictures} == {"0"}


def test_what_cannot_be_in_time_is_refused_with_the_reason_of_the_wire():
    hasty = Request("0", 0.0, step_count=6, deadline_s=0.2)
    [outcome] = simulate(Scenario("one", TIMES, Workload((hasty,)))).outcomes
    assert (outcome.state, outcome.reason) == ("refused", "DEADLINE_TOO_SHORT")


def test_who_finds_the_queue_full_is_refused():
    crowd = tuple(Request(f"{n}", 0.0, step_count=6) for n in range(200))
    limits = AdmissionLimits(max_waiting=3)
    run = simulate(Scenario("crowd", TIMES, Workload(crowd), limits=limits))
    refused = make_report(run).tiers["free"].refused
    assert refused.keys() == {"QUEUE_FULL"}
    assert 0 < refused["QUEUE_FULL"] < 200


def test_overheads_add_up_for_one_request():
    overheads = Overheads(0.01, {"text_encoding": 0.002, "diffusion": 0.004}, 0.003)
    one = Workload((Request("0", 0.0, step_count=3),))
    [bare] = simulate(Scenario("one", TIMES, one)).outcomes
    [outcome] = simulate(Scenario("one", TIMES, one, overheads=overheads)).outcomes
    # Between three steps are two pauses.
    assert outcome.latency_s - bare.latency_s == pytest.approx(0.01 + 0.002 + 0.004 + 2 * 0.003)
    assert bare.latency_s == pytest.approx(0.01 + 3 * 0.1 + 0.15)


def test_a_shared_light_replica_works_on_the_device_that_it_stands_on():
    both = tuple(Request(f"{n}", 0.0, step_count=3) for n in range(2))
    scenario = Scenario("two", TIMES, Workload(both), 2, light_replica_count=1)
    run = simulate(scenario)
    # Of the second device, only steps: text and decodes are all on the first.
    assert sorted(run.device_work_s.values()) == pytest.approx([0.3, 0.3 + 2 * 0.16])


def test_closed_loop_callers_wait_for_their_pictures():
    four = tuple(Request(f"{n}", 0.0, step_count=3) for n in range(4))
    run = simulate(Scenario("two callers", TIMES, Workload(four, concurrency=2)))
    starts = sorted(outcome.arrival_s for outcome in run.outcomes)
    ends = sorted(outcome.ended_s for outcome in run.outcomes)
    assert starts == [0.0, 0.0, *ends[:2]]
