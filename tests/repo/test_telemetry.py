"""Every name in traces and logs is written once in the code and explained in the registry."""

import ast
from pathlib import Path

import pytest
import yaml

from sangsang.services.runtime import telemetry

ROOT = Path(__file__).parents[2]
REGISTRY = yaml.safe_load((ROOT / "deploy" / "telemetry" / "registry.yaml").read_text("utf-8"))
NAMES = {name: value for name, value in vars(telemetry).items() if name.isupper()}
SPANS = {value for name, value in NAMES.items() if name.startswith("SPAN_")}
ATTRIBUTES = {
    value
    for name, value in NAMES.items()
    # The one that is imported describes the process, not a span.
    if not name.startswith("SPAN_") and name != "SERVICE_NAME"
}
STARTS = ("start_span", "start_as_current_span")
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")


def sources() -> list[Path]:
    files = (
        file
        for folder in ("services", "kernels", "orchestrator")
        for file in (ROOT / folder).rglob("*.py")
    )
    return sorted(file for file in files if file != ROOT / "services" / "runtime" / "telemetry.py")


def calls(tree: ast.AST, names: tuple[str, ...]) -> list[ast.Call]:
    """Calls of methods of these names."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in names
    ]


def literals(nodes: list[ast.expr | None]) -> list[str]:
    found = (node.value for node in nodes if isinstance(node, ast.Constant))
    return [value for value in found if isinstance(value, str)]


def attribute_literals(tree: ast.AST) -> list[str]:
    """Names of attributes that are spelt out: in a call that takes them, or anywhere else."""
    firsts = [call.args[0] for call in calls(tree, ("set_attribute",)) if call.args]
    taking = calls(tree, ("set_attributes", *STARTS))
    values = [value for call in taking for value in (*call.args, *(k.value for k in call.keywords))]
    keys = [key for value in values if isinstance(value, ast.Dict) for key in value.keys]
    anywhere = [value for value in literals(list(ast.walk(tree))) if value in ATTRIBUTES]
    return [*literals(firsts), *literals(keys), *anywhere]


def span_literals(tree: ast.AST) -> list[str]:
    return literals([call.args[0] for call in calls(tree, STARTS) if call.args])


def events(tree: ast.AST) -> list[ast.expr]:
    """First arguments of the calls of a module's `_log`."""
    return [
        call.args[0]
        for call in calls(tree, LEVELS)
        if isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "_log"
    ]


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_names_are_not_spelt_out(file):
    tree = ast.parse(file.read_text("utf-8"))
    assert span_literals(tree) == []
    assert attribute_literals(tree) == []


@pytest.mark.parametrize(
    ("kind", "used"), [("spans", SPANS), ("attributes", ATTRIBUTES)], ids=["spans", "attributes"]
)
def test_the_registry_has_the_names_of_the_code(kind, used):
    assert set(REGISTRY[kind]) == used
    assert len(used) == len([value for value in NAMES.values() if value in used]), "one name twice"


def test_the_registry_has_the_events_of_the_code():
    named = [event for file in sources() for event in events(ast.parse(file.read_text("utf-8")))]
    assert all(isinstance(event, ast.Constant) for event in named), "events are literals"
    assert set(REGISTRY["events"]) == set(literals(named))


def test_every_name_is_explained_and_used():
    code = "".join(file.read_text("utf-8") for file in sources())
    for kind in REGISTRY.values():
        assert all(text.endswith(".") for text in kind.values())
    for name in NAMES:
        assert f".{name}" in code or name == "SERVICE_NAME", f"{name} is used nowhere"


def test_a_name_spelt_out_is_seen():
    tree = ast.parse(
        "with tracer.start_as_current_span('work', attributes={'a.b': 1}) as span:\n"
        "    span.set_attribute('c.d', 1)\n"
        "    span.set_attributes({'e.f': 2, telemetry.STAGE: 3})\n"
        "    facts = {'sangsang.stage': 4}\n"
        "    _log.info('work_done')\n"
    )
    assert span_literals(tree) == ["work"]
    assert attribute_literals(tree) == ["c.d", "a.b", "e.f", "sangsang.stage"]
    assert literals(events(tree)) == ["work_done"]
