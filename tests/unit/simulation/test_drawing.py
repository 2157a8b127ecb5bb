"""Drawings have every execution, once. Run: pytest tests/unit/simulation/test_drawing.py"""

import json
import re
from collections import Counter
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from PIL import Image

from sangsang.orchestrator.simulation.drawing import draw
from sangsang.orchestrator.simulation.drawing_html import draw_html
from sangsang.orchestrator.simulation.drawing_scale import LANE_PX, Scale
from sangsang.orchestrator.simulation.drawing_svg import draw_svg
from sangsang.orchestrator.simulation.presets import eight, talk
from sangsang.orchestrator.simulation.simulation import simulate
from sangsang.orchestrator.simulation.timeline import REQUEST_COLOURS, make_timeline
from sangsang.services.runtime.errors import InvalidRequest


@pytest.fixture(scope="module", params=["talk", "eight"])
def runs(request):
    scenarios = talk(2) if request.param == "talk" else eight(4)
    return [simulate(replace(one, recorded=True)) for one in scenarios]


def texts_of(timeline):
    return Counter(box.text for panel in timeline.panels for box in panel.boxes)


def test_a_timeline_has_every_execution_once(runs):
    timeline = make_timeline(runs)
    for run, panel in zip(runs, timeline.panels, strict=True):
        drawn = Counter((box.start_s, box.end_s, panel.lanes[box.lane]) for box in panel.boxes)
        several = run.scenario.device_count > 1
        lanes = {
            one.place: (f"{one.place.device} " if several else "") + f"lane {one.place.lane + 1}"
            for one in run.executions
        }
        run_ones = Counter((one.start_s, one.end_s, lanes[one.place]) for one in run.executions)
        assert drawn == run_ones


def test_an_svg_has_a_box_with_a_text_for_each(runs):
    timeline = make_timeline(runs)
    tree = ElementTree.fromstring(draw_svg(timeline))
    boxes = [one for one in tree.findall(".//{*}rect") if one.get("class") == "task"]
    assert Counter(one.find("{*}title").text for one in boxes) == texts_of(timeline)


def test_a_page_has_each_in_its_data_and_nothing_from_elsewhere(runs):
    timeline = make_timeline(runs)
    page = draw_html(timeline)
    data = json.loads(re.search(r"^const data = (.*);$", page, re.MULTILINE)[1])
    texts = Counter(box[5] for panel in data["panels"] for box in panel["boxes"])
    assert texts == texts_of(timeline)
    assert not re.search(r"(src|href)=|https?://|@import", page)


def test_a_name_cannot_leave_the_script_of_a_page(runs):
    timeline = make_timeline(runs)
    page = draw_html(replace(timeline, legend=(("</script><b>", "#000000"),)))
    assert page.count("</script>") == 1


def test_a_png_has_each_in_its_colour_and_place(runs, tmp_path):
    path = tmp_path / "lanes.png"
    draw(runs, path)
    scale = Scale(make_timeline(runs))
    with Image.open(path) as image:
        assert image.width == 2 * scale.width_px
        for panel, top in scale.panels():
            for box in panel.boxes:
                x, y, width, _ = scale.box(top, box)
                if width > 4:
                    # Near its lower edge, below its word.
                    at = (int(2 * (x + width / 2)), int(2 * (y + LANE_PX) - 5))
                    assert "#{:02x}{:02x}{:02x}".format(*image.getpixel(at)) == box.colour


def test_few_requests_have_colours_of_their_own():
    few = make_timeline([simulate(replace(talk(2)[2], recorded=True))])
    assert [colour for _, colour in few.legend] == list(REQUEST_COLOURS[:2])
    many = make_timeline([simulate(replace(talk(8)[2], recorded=True))])
    assert "diffusion" in dict(many.legend)


def test_a_run_that_was_not_recorded_is_not_drawn():
    with pytest.raises(ValueError, match="recorded"):
        make_timeline([simulate(talk(2)[0])])


@pytest.mark.parametrize("name", ["lanes.pdf", "missing/lanes.svg"])
def test_what_cannot_be_drawn_into_is_told_before(tmp_path, name):
    with pytest.raises(InvalidRequest, match="drawing"):
        draw([], tmp_path / name)
