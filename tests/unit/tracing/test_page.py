"""The page of a trace in a real browser. Skipped where Playwright or Chromium is missing."""

import shutil
from pathlib import Path

import pytest
from made_traces import request_spans, span_id_of, step, trace_id

from sangsang.orchestrator.tracing.html import PageTrace, to_html
from sangsang.orchestrator.tracing.lanes import lane_uses
from sangsang.orchestrator.tracing.tree import build_tree

HOSTILE = "</script><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def page_text():
    steps = [step(f"s{i}", 22 + 6 * i, 27 + 6 * i, {"1": i, "2": i + 3}, rows=3) for i in range(9)]
    spans = [*request_spans("1"), *steps]
    around = [*spans, *request_spans("2", at_ms=-10, length_ms=120)]
    facts = ["pocket", "free", HOSTILE]
    trace = PageTrace(
        "request 1234",
        facts,
        build_tree(spans, span_id_of("r1")),
        {trace_id("2"): "its neighbour pro"},
        lane_uses(around),
    )
    return to_html(trace)


def test_it_needs_no_network_and_no_other_file(page_text):
    for word in ("http://", "https://", "src=", "@import", "import(", "fetch("):
        assert word not in page_text
    assert page_text.count("<script") == 1
    assert HOSTILE not in page_text


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
    )
    if not path:
        pytest.skip("needs Chromium, e.g. `apt install chromium`")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser, page_text, tmp_path):
    file = Path(tmp_path) / "trace.html"
    file.write_text(page_text, "utf-8")
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    errors, requests = [], []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(file.as_uri())
    yield opened
    opened.close()
    assert errors == []
    assert requests == [file.as_uri()], "one file and nothing else"


def shown(page) -> list[str]:
    return page.eval_on_selector_all(
        "#rows .row", "all => all.filter(e => !e.hidden).map(e => e.querySelector('b').textContent)"
    )


def test_it_shows_the_request(page):
    assert page.title() == "request 1234", "a fact is text, whatever is in it"
    assert shown(page) == [
        "GenerateImages",
        "generate picture",
        "admission wait",
        "call EncodeText",
        "EncodeText",
        "engine infer",
        "lane wait",
        "call Denoise",
        "Denoise",
        "9 batch steps",
    ]
    legend = page.inner_text("#legend")
    assert "diffusion 45 ms, 45 %" in legend
    assert page.locator("#rows .path").count() > 5
    names = page.eval_on_selector_all("#lanes .name b", "all => all.map(e => e.textContent)")
    assert names == ["device0 lane 0", "device0 lane 1"]
    assert page.locator("#lanes .own.runs").count() == 10


def test_steps_open_and_close(page):
    toggle = page.get_by_label("show each step")
    toggle.click()
    assert shown(page).count("batch step") == 9
    toggle.click()
    assert shown(page).count("batch step") == 0


def test_pointing_tells_all_that_is_known(page):
    assert not page.locator("#tip").is_visible()
    page.locator("#rows .row", has_text="call EncodeText").locator(".track i").first.hover()
    text = page.inner_text("#tip")
    assert "call EncodeText, orchestrator" in text
    assert "10 ms, from 5 ms on" in text
    assert "sangsang.device device0" in text
    page.get_by_label("show each step").click()
    page.locator("#rows .row", has_text="batch step").nth(1).locator(".name b").hover()
    text = page.inner_text("#tip")
    assert "this request, step 1" in text
    assert "its neighbour pro, step 4" in text
    page.mouse.move(5, 5)
    assert not page.locator("#tip").is_visible()


def test_the_filter_leaves_what_has_the_words(page):
    page.fill("#filter", "encodetext")
    assert shown(page) == ["call EncodeText", "EncodeText"]
    page.fill("#filter", "neighbour")
    assert shown(page) == ["batch step"] * 9, "found though they were not open"
    page.fill("#filter", "")
    assert len(shown(page)) == 10
    page.check("#only")
    assert "lane wait" in shown(page)
    page.fill("#filter", "no such thing")
    assert shown(page) == []


def test_the_wheel_zooms_to_the_pointer_and_dragging_moves(page):
    bar = page.locator("#rows .row", has_text="call EncodeText").locator(".track i").first
    before = bar.bounding_box()
    page.mouse.move(before["x"] + before["width"] / 2, before["y"] + 3)
    page.mouse.wheel(0, -400)
    page.wait_for_function("to - from < 0.9 * data.end")
    zoomed = bar.bounding_box()
    assert zoomed["width"] > 1.5 * before["width"]
    middle = before["x"] + before["width"] / 2
    assert zoomed["x"] < middle < zoomed["x"] + zoomed["width"], "what is pointed at stays"
    page.mouse.down()
    page.mouse.move(middle + 40, before["y"] + 3, steps=4)
    page.mouse.up()
    moved = bar.bounding_box()
    assert moved["x"] == pytest.approx(zoomed["x"] + 40, abs=1.5)
    page.get_by_role("button", name="whole request").click()
    assert bar.bounding_box() == pytest.approx(before)
