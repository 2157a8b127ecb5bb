"""`sangsang top`: what it makes of what it fetches. Run: pytest tests/unit/test_top.py"""

import asyncio

import pytest
from rich.console import Console
from scraping import free_ports
from typer.testing import CliRunner

from sangsang.orchestrator.cli import app, top
from sangsang.orchestrator.cli.top_scrapes import MeshWatch, Scrape, Window
from sangsang.orchestrator.cli.top_view import frame
from sangsang.services.runtime.metrics import declarations
from sangsang.services.runtime.metrics.registry import Metrics

NOW_S = 1000.0


def text_of(window, silent=(), width=80):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(frame(window, silent))
    return capture.get()


def scrape(metrics, at_s=NOW_S, started_s=None):
    found = Scrape.parse(metrics.text(), at_s)
    key = next(key for key in found.values if key[0] == declarations.START_TIME.name)
    return Scrape(at_s, {**found.values, key: NOW_S - 100 if started_s is None else started_s})


@pytest.fixture
def orchestrator():
    """What an orchestrator with one device has seen."""
    metrics = Metrics("orchestrator")
    heavy, light = ("device0", "0", "diffusion"), ("device0", "1", "postprocessing")
    metrics.read(declarations.DEVICE_LANES, lambda: {("device0",): 2})
    metrics.read(declarations.LANE_CALLS, lambda: {(*heavy, "pocket"): 6})
    metrics.read(declarations.LANE_ROWS, lambda: {(*heavy, "pocket"): 7})
    metrics.read(declarations.LANE_BUSY_SECONDS, lambda: {heavy: 90.0, light: 25.0})
    metrics.read(declarations.REQUESTS_RUNNING, lambda: {(): 4})
    metrics.read(declarations.REQUESTS_WAITING, lambda: {(): 5})
    metrics.read(declarations.BACKLOG_SECONDS, lambda: {("free",): 1.5, ("pro",): 0.75})
    metrics.read(declarations.QUEUE_DEPTH, lambda: {("text_encoding", "pro"): 3})
    metrics.read(declarations.REPLICAS, lambda: {("diffusion",): 2, ("postprocessing",): 0})
    metrics.read(declarations.REPLICA_LOSSES, lambda: {("postprocessing",): 1})
    pictures = metrics.counter(declarations.PICTURES)
    pictures.labels("pocket", "pro", "finished").inc(300)
    pictures.labels("pocket", "pro", "late").inc(100)
    pictures.labels("pocket", "pro", "left").inc(50)
    metrics.counter(declarations.PICTURES_IN_TIME).labels("pro").inc(300)
    metrics.counter(declarations.DEADLINE_MISSES).labels("pro", "running").inc(97)
    refusals = metrics.counter(declarations.REFUSALS)
    refusals.labels("pro", "QUEUE_FULL").inc(12)
    refusals.labels("free", "DEADLINE_TOO_SHORT").inc(1)
    requests = metrics.histogram(declarations.REQUEST_SECONDS).labels("pro")
    for _ in range(100):
        requests.observe(0.25)
    metrics.histogram(declarations.PICTURE_COMPUTE_SECONDS).labels("pro").observe(0.6)
    metrics.histogram(declarations.STAGE_SECONDS).labels("diffusion", "pocket").observe(0.4)
    return metrics


@pytest.fixture
def diffusion():
    """What a diffusion service has done meanwhile."""
    metrics = Metrics("diffusion")
    metrics.read(declarations.STEP_ROW_LIMIT, lambda: {("pocket",): 8})
    metrics.read(declarations.ROWS_IN_FLIGHT, lambda: {("pocket",): 13})
    metrics.read(declarations.WASTED_STEPS, lambda: {("pocket",): 4})
    metrics.read(declarations.STEP_PADDING_ROWS, lambda: {("pocket",): 2})
    seconds = metrics.histogram(declarations.STEP_SECONDS).labels("pocket")
    rows = metrics.histogram(declarations.STEP_ROWS).labels("pocket")
    for row_count in (4, 8, 6):
        seconds.observe(0.02)
        rows.observe(row_count)
    return metrics


def row(text, name):
    """The words of the row that begins so."""
    [line] = [line for line in text.splitlines() if line.removeprefix("│ ").startswith(name + " ")]
    return line.strip("│ ").split()


def test_a_frame_since_the_start_has_the_figures(orchestrator, diffusion):
    ends = {"a:1": scrape(orchestrator), "a:2": scrape(diffusion)}
    text = text_of(Window(ends, {}))
    assert "4 running, 5 waiting, 2.2 s of work  since its start, 100 s\n" in text
    assert row(text, "device0")[:6] == ["device0", "0", "diffusion", "pocket", "6", "7"]
    assert row(text, "device0")[-1] == "90%"
    assert any("idle" in line and line.rstrip("│ ").endswith("25%") for line in text.splitlines())
    # 300 in 100 s; 300 of the 400 that somebody waited for.
    pro = row(text, "pro")
    assert pro[:2] == ["pro", "3.00"]
    assert pro[-7:] == ["600", "ms", "75%", "3", "12", "97", "-"]
    assert row(text, "free") == ["free", "-", "-", "-", "-", "-", "-", "1", "-", "-"]
    assert "refused: DEADLINE_TOO_SHORT 1, QUEUE_FULL 12" in text
    assert row(text, "postprocessing")[-2:] == ["0", "1"]
    assert row(text, "pocket")[-3:] == ["13", "10%", "4"]
    assert "6.0 of 8" in text


@pytest.mark.parametrize("width", [80, 132])
def test_nothing_is_cut_off(orchestrator, diffusion, width):
    ends = {"a:1": scrape(orchestrator), "a:2": scrape(diffusion)}
    text = text_of(Window(ends, {}), ["127.0.0.1:9466"], width)
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    assert "127.0.0.1:9466 does not answer" in text


def test_a_window_has_what_came_in_it(orchestrator):
    begin = scrape(orchestrator, NOW_S - 10)
    refused = (declarations.REFUSALS.name, frozenset({("tier", "pro"), ("reason", "QUEUE_FULL")}))
    busy = (
        declarations.LANE_BUSY_SECONDS.name,
        frozenset({("device", "device0"), ("lane", "0"), ("stage", "diffusion")}),
    )
    later = {**begin.values, refused: 20.0, busy: 95.0}
    window = Window({"a:1": Scrape(NOW_S, later)}, {"a:1": begin})
    assert window.seconds == 10
    assert window.total(declarations.REFUSALS) == 8
    text = text_of(window)
    assert "over the last 10 s" in text
    assert "refused: QUEUE_FULL 8" in text
    assert row(text, "device0")[-1] == "50%"
    assert row(text, "pro")[1:4] == ["-", "-", "-"], "no picture was finished in it"


def test_a_service_that_was_restarted_counts_from_its_start(diffusion):
    begin = scrape(diffusion, NOW_S - 10)
    end = scrape(diffusion, NOW_S, started_s=NOW_S - 4)
    window = Window({"a:1": end}, {"a:1": begin})
    assert window.total(declarations.WASTED_STEPS) == 4
    assert window.seconds == 4


def test_quantiles_are_those_of_the_values():
    metrics = Metrics("orchestrator")
    times = metrics.histogram(declarations.REQUEST_SECONDS).labels("pro")
    values = [0.004 * 1.05**i for i in range(200)]
    for value in values:
        times.observe(value)
    window = Window({"a:1": scrape(metrics)}, {})
    for share in (0.05, 0.5, 0.9):
        found = window.quantile(declarations.REQUEST_SECONDS, share, tier="pro")
        assert found == pytest.approx(values[round(share * 200)], rel=0.25)
    assert window.quantile(declarations.REQUEST_SECONDS, 1.0, tier="pro") == 60
    assert window.quantile(declarations.REQUEST_SECONDS, 0.5, tier="free") is None
    assert window.mean(declarations.REQUEST_SECONDS) == pytest.approx(sum(values) / 200)


def test_without_the_diffusion_service_a_frame_says_what_is_missing(orchestrator):
    text = text_of(Window({"a:1": scrape(orchestrator)}, {}))
    assert "the metrics of the diffusion service are not read; name it with --metrics" in text


def test_services_of_one_model_are_added_up_and_their_limit_is_not(diffusion):
    ends = {"a:1": scrape(diffusion), "a:2": scrape(diffusion)}
    text = text_of(Window(ends, {}))
    assert row(text, "pocket")[-3:] == ["26", "10%", "8"]
    assert "6.0 of 8" in text


async def test_further_services_are_found_on_the_next_ports(orchestrator, diffusion, monkeypatch):
    port = free_ports(3)
    await orchestrator.serve("127.0.0.1", port)
    await diffusion.serve("127.0.0.1", port + 1)
    try:
        watch = MeshWatch([f"127.0.0.1:{port}"], follow=True)
        window = await asyncio.to_thread(watch.look)
        assert list(window.ends) == [f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"]
        assert window.since_start
        await diffusion.close()
        window = await asyncio.to_thread(watch.look)
        assert watch.silent == [f"127.0.0.1:{port + 1}"]
        assert not window.since_start
        # As `sangsang top` without options has it, if this were its port.
        monkeypatch.setattr(top, "DEFAULT_METRICS", f"127.0.0.1:{port}")
        result = await asyncio.to_thread(CliRunner().invoke, app, ["top", "--once"])
        assert result.exit_code == 0, result.output
        assert "4 running, 5 waiting" in result.output
        assert "diffusion service are not read" in result.output, "it has been closed"
    finally:
        await orchestrator.close()
        await diffusion.close()


def test_nobody_there_is_said_with_what_to_do():
    address = f"127.0.0.1:{free_ports(1)}"
    result = CliRunner().invoke(app, ["top", "--once", "--metrics", address])
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert f"no metrics at {address}" in said
    assert "`sangsang up`" in said


def test_an_address_that_is_none_is_refused():
    result = CliRunner().invoke(app, ["top", "--once", "--metrics", "nowhere:port"])
    assert result.exit_code == 1
    assert "Traceback" not in result.output
