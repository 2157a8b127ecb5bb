"""Metrics are declared once, explained in the registry, made somewhere, and seen by somebody."""

import ast
import json
import re
from pathlib import Path

import pytest
import yaml
from metric_queries import CONSTANTS, DECLARED, declared_of, labels_asked, metrics_of

from sangsang.orchestrator.settings import DEFAULT_METRICS_PORT
from sangsang.services.runtime.metrics.registry import Metrics

ROOT = Path(__file__).parents[2]
REGISTRY = yaml.safe_load((ROOT / "deploy" / "telemetry" / "registry.yaml").read_text("utf-8"))
OBSERVABILITY = ROOT / "deploy" / "observability"
RULES = yaml.safe_load((OBSERVABILITY / "prometheus" / "alerts.yml").read_text("utf-8"))
DASHBOARD = json.loads(
    (OBSERVABILITY / "grafana" / "dashboards" / "sangsang.json").read_text("utf-8")
)
PROMETHEUS = yaml.safe_load((OBSERVABILITY / "prometheus" / "prometheus.yml").read_text("utf-8"))
DECLARING = ROOT / "services" / "runtime" / "metrics" / "declarations.py"
# What Prometheus adds to whatever it fetches: `host` by our own configuration.
TARGET_LABELS = {"job", "instance", "host"}


def sources() -> list[Path]:
    files = (
        file
        for folder in ("services", "kernels", "orchestrator")
        for file in (ROOT / folder).rglob("*.py")
    )
    return sorted(file for file in files if file != DECLARING)


def panel_expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def rules() -> list[dict]:
    return [rule for group in RULES["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    return [*panel_expressions(), *(rule["expr"] for rule in rules())]


def test_the_registry_explains_what_the_code_declares():
    assert REGISTRY["metrics"] == {one.name: one.text for one in CONSTANTS.values()}
    assert len(DECLARED) == len(CONSTANTS), "one name twice"
    labels = {label for one in CONSTANTS.values() for label in one.labels}
    assert set(REGISTRY["metric_labels"]) == labels


@pytest.mark.parametrize("one", CONSTANTS.values(), ids=lambda one: one.name)
def test_names_are_as_prometheus_has_them(one):
    assert re.fullmatch(r"sangsang_[a-z]+(_[a-z]+)*", one.name)
    assert one.name.endswith("_total") == (one.kind == "counter")
    if one.kind == "histogram":
        assert one.name.endswith(("_seconds", "_rows"))
        assert list(one.buckets) == sorted(set(one.buckets))
        if one.name.endswith("_seconds"):
            assert one.buckets[0] == 0.001
            assert one.buckets[-1] == 60
    assert not set(one.labels) & {"tenant", "request", "request_id", "prompt", "seed", "le"}


def test_every_metric_is_made():
    # The command line only reads them.
    makers = [file for file in sources() if file.parent.name != "cli"]
    code = "".join(file.read_text("utf-8") for file in makers)
    for name in CONSTANTS:
        assert re.search(rf"\bdeclarations\.{name}\b", code), f"{name} is made nowhere"


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_names_are_not_spelt_out(file):
    found = (
        node.value
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    assert [text for text in found if declared_of(text) or text in DECLARED] == []


def exported_by_all() -> set[str]:
    """What every process exports beside our own."""
    lines = Metrics("fake").text().splitlines()
    return {line.partition(" ")[0] for line in lines if line.startswith("process_")} | {"up"}


@pytest.mark.parametrize("expression", expressions())
def test_what_is_asked_for_exists(expression):
    series = metrics_of(expression)
    assert series, "it asks for nothing of ours"
    common = exported_by_all()
    labels = TARGET_LABELS | {"le"}
    for name in series - common:
        found = declared_of(name)
        assert found is not None, f"there is no series {name}"
        labels |= set(found.labels)
    assert labels_asked(expression) <= labels


def test_every_metric_is_on_the_dashboard_or_in_an_alert():
    seen = {
        found.name
        for text in expressions()
        for name in metrics_of(text)
        if (found := declared_of(name))
    }
    assert set(DECLARED) - seen == set()


def test_a_name_or_a_label_that_does_not_exist_is_seen():
    assert declared_of("sangsang_step_seconds") is None, "a histogram has no series of its name"
    assert declared_of("sangsang_calls_total_sum") is None
    assert declared_of("sangsang_calls") is None
    assert labels_asked('sum by (a, b) (x{c="1",d!="2"}) and on () y') == {"a", "b", "c", "d"}


def test_alerts_say_what_to_do_and_have_names_of_their_own():
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "description"}
        used = re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))
        aggregated = re.findall(r"\bby\s*\(([^)]*)\)", rule["expr"])
        kept = {name.strip() for part in aggregated for name in part.split(",")}
        series = [declared_of(name) for name in metrics_of(rule["expr"])]
        if not kept:
            kept = TARGET_LABELS | {label for one in series if one for label in one.labels}
        assert set(used) <= kept, rule["alert"]


def test_the_five_services_are_fetched():
    [job] = PROMETHEUS["scrape_configs"]
    [found] = job["dns_sd_configs"]
    stages = {"text-encoding", "preprocessing", "diffusion", "postprocessing"}
    assert set(found["names"]) == {"orchestrator", *stages}
    assert found["port"] == DEFAULT_METRICS_PORT
    assert (OBSERVABILITY / "prometheus" / PROMETHEUS["rule_files"][0]).is_file()
    assert any(rule["target_label"] == "host" for rule in job["relabel_configs"])


def test_panels_have_places_of_their_own():
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= own
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
