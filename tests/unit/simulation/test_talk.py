"""The talk's picture, computed by hand: light models take 1 unit, steps 2, a request has 3 steps.

Run: pytest tests/unit/simulation/test_talk.py
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from sangsang.orchestrator.simulation.bounds import lower_bound
from sangsang.orchestrator.simulation.drawing_svg import draw_svg
from sangsang.orchestrator.simulation.presets import TALK_UNIT_S, talk
from sangsang.orchestrator.simulation.simulation import simulate
from sangsang.orchestrator.simulation.timeline import make_timeline

PICTURE = Path(__file__).parents[3] / "orchestrator" / "simulation" / "pictures" / "talk.svg"


def units(seconds: float) -> float:
    return round(seconds / TALK_UNIT_S, 6)


def played(request_count: int):
    return [simulate(replace(one, recorded=True)) for one in talk(request_count)]


@pytest.mark.parametrize(
    ("request_count", "one_lane", "whole_requests", "pipelined"),
    [
        # Alone: 3 light, 6 of steps, 3 light, whoever gives the lanes.
        (1, 12, 12, 12),
        # One after another: 24. Two at once, whose steps slow each other: 3 + 12 + 3. Pipelined,
        # the steps follow one another: 3 + 6 + 6 + 3, and the first is done after 12.
        (2, 24, 18, 18),
        # Two and two; or four times 6 units of steps without a gap.
        (4, 48, 36, 30),
        (8, 96, 72, 54),
    ],
)
def test_makespans(request_count, one_lane, whole_requests, pipelined):
    makespans = [units(run.makespan_s) for run in played(request_count)]
    assert makespans == [one_lane, whole_requests, pipelined]


def test_who_is_done_when():
    _, whole_requests, pipelined = played(2)
    assert [units(outcome.latency_s) for outcome in whole_requests.outcomes] == [18, 18]
    assert [units(outcome.latency_s) for outcome in pipelined.outcomes] == [12, 18]


def test_pipelined_steps_follow_one_another_and_the_neighbour_fills_the_other_lane():
    *_, pipelined = played(2)
    drawn = [
        (one.place.lane, one.label, one.pictures[0][0][-1], units(one.start_s), units(one.end_s))
        for one in sorted(pipelined.executions, key=lambda one: (one.place.lane, one.start_s))
    ]
    steps = [(0, "diffusion", "1", 3 + 2 * n, 5 + 2 * n) for n in range(3)]
    steps += [(0, "diffusion", "2", 9 + 2 * n, 11 + 2 * n) for n in range(3)]
    before = [(0, "1", "1", 0, 1), (0, "2", "1", 1, 2), (0, "1'", "1", 2, 3)]
    after = [(0, "3", "2", 15, 16), (0, "4", "2", 16, 17), (0, "5", "2", 17, 18)]
    other = [(1, "1", "2", 3, 4), (1, "2", "2", 4, 5), (1, "1'", "2", 5, 6)]
    other += [(1, "3", "1", 9, 10), (1, "4", "1", 10, 11), (1, "5", "1", 11, 12)]
    assert drawn == [*before, *steps, *after, *other]


def test_each_request_makes_its_calls_in_the_talks_order():
    for run in played(4):
        for name in {name for one in run.executions for name, _ in one.pictures}:
            own = [one for one in run.executions if one.pictures[0][0] == name]
            labels = [one.label for one in sorted(own, key=lambda one: one.start_s)]
            assert labels == ["1", "2", "1'", *["diffusion"] * 3, "3", "4", "5"]
        assert Counter(one.row_count for one in run.executions) == {1: 4 * 9}


@pytest.mark.parametrize("request_count", [1, 2, 4, 8])
def test_pipelining_reaches_the_lower_bound(request_count):
    *_, pipelined = played(request_count)
    assert units(lower_bound(pipelined).seconds) == units(pipelined.makespan_s)
    assert units(lower_bound(pipelined).seconds) == 3 + 6 * request_count + 3


def test_the_picture_in_the_readme_is_not_stale():
    hint = "sangsang simulate talk --requests 4 --draw orchestrator/simulation/pictures/talk.svg"
    assert PICTURE.read_text("utf-8") == draw_svg(make_timeline(played(4))), hint
