"""`sangsang simulate`. Run: pytest tests/unit/simulation/test_simulate_command.py"""

import json

import pytest
from typer.testing import CliRunner

from sangsang.orchestrator.cli import app
from sangsang.services.runtime.errors import InvalidRequest


def run(*arguments):
    result = CliRunner().invoke(app, ["simulate", *arguments], env={"COLUMNS": "120"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def figures(*arguments):
    result = run("--json", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_talks_picture():
    reports = figures("talk")
    makespans = {report["name"]: report["makespan_s"] for report in reports}
    assert makespans == {
        "one lane": pytest.approx(2.4),
        "two lanes, whole requests": pytest.approx(1.8),
        "two lanes, pipelined": pytest.approx(1.8),
    }


def test_eight_servers_are_busy():
    [report] = figures("eight", "--requests", "4")
    assert (report["devices"], report["lanes"], report["pictures"]) == (8, 2, 32)
    assert set(report["tiers"]) == {"free", "pro"}
    assert 0.5 < report["bound_ratio"] <= 1


def test_a_sweep_has_a_line_for_each_number_of_devices():
    result = run("--devices", "1,3", "--requests", "2", "--tier", "free=1:3x1")
    lines = [line.split("│") for line in result.stdout.splitlines() if "µs" in line]
    assert [line[1].strip() for line in lines] == ["1", "3"]
    assert [line[2].strip() for line in lines] == ["2", "6"]


def test_a_workload_from_a_file_and_drawings(tmp_path):
    path = tmp_path / "requests.csv"
    path.write_text("arrival,steps,rows\n0,4,2\n0.1,3,1\n")
    drawings = [tmp_path / f"lanes.{kind}" for kind in ("svg", "png", "html")]
    options = [word for file in drawings for word in ("--draw", str(file))]
    [report] = figures("--workload", str(path), "--lanes", "1", *options)
    assert report["pictures"] == 2
    assert all(file.stat().st_size > 1000 for file in drawings)


def test_arrivals_deadlines_and_cancels():
    options = ["--arrivals", "poisson", "--load", "3", "--deadline", "4", "--cancelled", "0.3"]
    [report] = figures(*options, "--requests", "40", "--seed", "1")
    tiers = report["tiers"].values()
    assert sum(tier["cancelled"] for tier in tiers) > 0
    assert sum(sum(tier["refused"].values()) for tier in tiers) > 0
    for tier in tiers:
        ended = tier["done"] + tier["cancelled"] + tier["expired"] + sum(tier["refused"].values())
        assert ended == tier["requests"]


def test_tables_name_every_figure():
    said = run("--requests", "3", "--arrivals", "bursts").stdout
    for word in ("makespan", "lower bound", "goodput", "lanes in use", "cost", "wasted", "p99"):
        assert word in said, word


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--devices", "0"], "--devices: must be numbers from 1 to 10000"),
        (["--devices", "1,x"], "--devices"),
        (["--tier", "free=1"], "NAME=SHARE:STEPSxROWS"),
        (["--tier", "free=0:3x1"], "NAME=SHARE:STEPSxROWS"),
        (["--size", "64=1"], "HEIGHTxWIDTH=SHARE"),
        (["--size", "64x64=0"], "above 0"),
        (["--policy", "whole-requests", "--lanes", "0"], "--lanes: must be 1 or more"),
        (["talk", "--lanes", "1"], "--lanes: is decided by the preset talk"),
        (["eight", "--load", "1"], "--load: is decided by the preset eight"),
        (["--draw", "lanes.pdf"], ".svg, .png, .html"),
    ],
)
def test_bad_words_are_named_with_what_they_must_be(arguments, text):
    with pytest.raises(InvalidRequest) as refused:
        run(*arguments)
    assert text in refused.value.message
