"""Requests from files and drawn. Run: pytest tests/unit/simulation/test_workloads.py"""

import json

import pytest

from sangsang.orchestrator.simulation.generated import Burst, Mix, TierMix, closed_loop, open_loop
from sangsang.orchestrator.simulation.workload import Request
from sangsang.orchestrator.simulation.workload_file import read_workload
from sangsang.services.runtime.errors import InvalidRequest

FULL = {
    "arrival": 1.5,
    "tier": "pro",
    "tenant": "shop",
    "steps": 35,
    "rows": 2,
    "pictures": 4,
    "size": "512x768",
    "deadline": 9,
    "cancel": 2.5,
}


def test_json_lines_in_the_order_of_arrival(tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_text(f'{json.dumps(FULL)}\n\n{{"arrival": 0}}\n')
    first, second = read_workload(path).requests
    assert first == Request("3", 0.0)
    assert second == Request("1", 1.5, "pro", "shop", 35, 2, 4, (512, 768), 9.0, 2.5)


def test_csv_says_the_same(tmp_path):
    path = tmp_path / "requests.csv"
    path.write_text(",".join(FULL) + "\n" + ",".join(map(str, FULL.values())) + "\n0,,,,,,,,\n")
    first, second = read_workload(path).requests
    assert first == Request("3", 0.0)
    assert second == Request("2", 1.5, "pro", "shop", 35, 2, 4, (512, 768), 9.0, 2.5)


@pytest.mark.parametrize(
    ("line", "field", "text"),
    [
        ('{"tier": "pro"}', "line 1: arrival", "is needed"),
        ('{"arrival": -1}', "line 1: arrival", "0 or more"),
        ('{"arrival": "NaN"}', "line 1: arrival", "0 or more"),
        ('{"arrival": 0, "steps": 0}', "line 1: steps", "from 1 to 10000"),
        ('{"arrival": 0, "steps": 2.5}', "line 1: steps", "whole number"),
        ('{"arrival": 0, "size": "512"}', "line 1: size", "HEIGHTxWIDTH"),
        ('{"arrival": 0, "size": "0x5"}', "line 1: size", "from 1"),
        ('{"arrival": 0, "tier": 7}', "line 1: tier", "64 characters"),
        ('{"arrival": 0, "step": 3}', "line 1: step", "steps"),
        ("[1]", "line 1: line", "JSON object"),
        ("{", "line 1: line", "no JSON"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, field, text):
    path = tmp_path / "requests.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InvalidRequest) as refused:
        read_workload(path)
    [violation] = refused.value.violations
    assert violation.field == field
    assert text in violation.description


def test_all_bad_lines_are_named_at_once(tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_text('{"arrival": -1}\n{"arrival": 0}\n{"rows": 0}\n')
    with pytest.raises(InvalidRequest) as refused:
        read_workload(path)
    fields = [violation.field for violation in refused.value.violations]
    assert fields == ["line 1: arrival", "line 3: rows", "line 3: arrival"]


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
def test_a_file_that_says_nothing_is_refused(tmp_path, content):
    path = tmp_path / "requests.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidRequest, match=r"requests\.jsonl"):
        read_workload(path)


def test_the_same_seed_draws_the_same_requests():
    mix = Mix(tenant_count=3, cancelled=0.2, sizes={(64, 64): 1.0, (32, 64): 1.0})
    draw = [open_loop(mix, rate_per_s=5.0, request_count=50, seed=seed) for seed in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]


def test_tiers_sizes_and_cancels_have_their_shares():
    mix = Mix(
        tiers={"a": TierMix(3.0, 2, 1, 9.0), "b": TierMix(1.0, 5, 2)},
        sizes={(64, 64): 1.0, (32, 64): 1.0},
        cancelled=0.1,
    )
    drawn = open_loop(mix, rate_per_s=5.0, request_count=4000, seed=0).requests
    assert sum(one.tier == "a" for one in drawn) == pytest.approx(3000, abs=120)
    assert sum(one.size_px == (32, 64) for one in drawn) == pytest.approx(2000, abs=140)
    assert sum(one.cancel_s is not None for one in drawn) == pytest.approx(400, abs=80)
    assert {(one.tier, one.step_count, one.row_count, one.deadline_s) for one in drawn} == {
        ("a", 2, 1, 9.0),
        ("b", 5, 2, None),
    }


def test_arrivals_have_their_rate_and_bursts_theirs():
    even = open_loop(Mix(), rate_per_s=10.0, request_count=5000, seed=0).requests
    assert even[-1].arrival_s == pytest.approx(500, rel=0.06)
    burst = Burst(factor=8.0, length_s=1.0, period_s=10.0)
    drawn = open_loop(Mix(), rate_per_s=10.0, request_count=5000, seed=0, burst=burst).requests
    inside = [one for one in drawn if one.arrival_s >= 10 and one.arrival_s % 10 < 1]
    # Of 17 units of arrivals in a period, 8 are in its first second.
    later = [one for one in drawn if one.arrival_s >= 10]
    assert len(inside) / len(later) == pytest.approx(8 / 17, abs=0.03)


def test_a_closed_loop_has_callers_and_no_times():
    workload = closed_loop(Mix(), concurrency=4, request_count=10, seed=0)
    assert workload.concurrency == 4
    assert {one.arrival_s for one in workload.requests} == {0.0}
