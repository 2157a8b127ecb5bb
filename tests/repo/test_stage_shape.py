"""Who has read one stage finds everything in the next: the four folders have one shape."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

from sangsang.services.runtime.model_stage import ModelStage
from sangsang.services.runtime.settings import ServiceSettings

SERVICES = Path(__file__).parents[2] / "services"
# In the order of the flow, which is the order of their ports.
STAGES = ("text_encoding", "preprocessing", "diffusion", "postprocessing")
FIRST_PORT = 50051
FILES = {"README.md", "__init__.py", "__main__.py", "converters.py", "servicer.py", "settings.py"}

every_stage = pytest.mark.parametrize("stage", STAGES)


def camel(stage: str) -> str:
    return "".join(word.capitalize() for word in stage.split("_"))


def source(stage: str, file: str) -> str:
    return (SERVICES / stage / file).read_text("utf-8")


def members(kind: type) -> list[str]:
    return [name for name in vars(kind) if not name.startswith("__")]


def imported(text: str) -> str:
    """What a source file imports, each name with where it comes from."""
    nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import | ast.ImportFrom)]
    places = [(getattr(node, "module", "") or "", node.names) for node in nodes]
    return " ".join(f"{place}.{alias.name}" for place, names in places for alias in names)


@every_stage
def test_it_has_the_files_that_every_stage_has(stage):
    assert {file.name for file in (SERVICES / stage).iterdir()} >= FILES


def test_they_start_in_the_same_way():
    assert len({_without_names(source(stage, "__main__.py"), stage) for stage in STAGES}) == 1


def _without_names(text: str, stage: str) -> str:
    names = {stage: "STAGE", stage.replace("_", " "): "STAGE", camel(stage): "Stage"}
    for name, stands in names.items():
        text = text.replace(name, stands)
    # Whatever the names do to the order of imports, or to lines that are near their end.
    return " ".join(sorted(text.split()))


@every_stage
def test_its_settings_are_one_class_and_a_port(stage):
    module = import_module(f"sangsang.services.{stage}.settings")
    kind = getattr(module, f"{camel(stage)}Settings")
    assert issubclass(kind, ServiceSettings)
    assert (
        module.DEFAULT_PORT == kind.model_fields["port"].default == FIRST_PORT + STAGES.index(stage)
    )
    assert kind.__doc__.endswith("read from `SANGSANG_...` variables.")


@every_stage
def test_its_servicer_is_one_stage_with_one_rpc(stage):
    module = import_module(f"sangsang.services.{stage}.servicer")
    kind = getattr(module, f"{camel(stage)}Stage")
    assert issubclass(kind, ModelStage)
    assert kind.name == stage
    assert [name.rpartition(".")[2] for name in kind.service_names] == [f"{camel(stage)}Service"]
    [rpc] = [name for name in members(kind) if name[0].isupper()]
    order = ["name", "service_names", "_settings", rpc, "add_to_server", "close"]
    order += ["_open", "_warm_up", "_engine"]
    found = [name for name in members(kind) if name in order]
    assert found == [name for name in order if name in found], "the same order in each"
    assert set(order) - set(found) <= {"_settings", "close"}


@every_stage
def test_its_converters_are_named_after_what_they_make(stage):
    tree = ast.parse(source(stage, "converters.py"))
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    public = [name for name in functions if not name.startswith("_")]
    assert public
    assert all(name.startswith("to_") for name in public), public


@every_stage
def test_only_its_edge_knows_grpc(stage):
    for file in (SERVICES / stage).glob("*.py"):
        names = imported(file.read_text("utf-8"))
        if file.name != "servicer.py":
            assert "grpc" not in names, file.name
        if file.name not in ("servicer.py", "converters.py"):
            assert "_pb2" not in names, file.name


@every_stage
def test_its_readme_says_the_same_things_in_the_same_order(stage):
    readme = source(stage, "README.md")
    module = import_module(f"sangsang.services.{stage}.settings")
    headings = re.findall(r"^#+ .*", readme, re.MULTILINE)
    assert headings[0] == f"# {stage.replace('_', ' ').capitalize()}"
    assert headings[-1] == "## Decisions"
    assert headings[1].startswith("## What holds")
    first = readme.split("\n\n")[1]
    assert re.search(rf"`{camel(stage)}Service\.\w+`, port {module.DEFAULT_PORT}\b", first)
    order, _, rest = readme.partition("Read in this order:")[2].partition("\n## ")
    assert rest, "the reading order comes before the first section"
    named = set(re.findall(r"`(\w+\.py)`", order))
    assert named == {file.name for file in (SERVICES / stage).glob("*.py")} - {"__init__.py"}
