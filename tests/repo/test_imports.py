"""Imports point one way: orchestrator -> runtime; stage -> runtime, kernels; kernels -> none."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES = ("text_encoding", "preprocessing", "diffusion", "postprocessing")


def area_of(parts: tuple[str, ...]) -> str:
    """`services/diffusion/rows.py` -> `diffusion`; `kernels/geglu/op.py` -> `kernels`."""
    return parts[1] if parts[0] == "services" and len(parts) > 1 else parts[0]


def may_import(area: str) -> set[str]:
    if area == "kernels":
        return {"kernels"}
    if area == "runtime":
        return {"runtime", "kernels", "imaging", "stages"}
    if area in STAGES:
        return {area, "runtime", "kernels", "stages"}
    return {"orchestrator", "runtime", "imaging", "stages", "tracing"}


def imported_areas(file: Path) -> set[str]:
    package = file.relative_to(ROOT).parent.parts
    areas = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        names: list[tuple[str, ...]] = []
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            tail = tuple((node.module or "").split(".")) if node.module else ()
            names = [(*base, *tail, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [tuple((node.module or "").split("."))]
        elif isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        for name in names:
            if name[0] == "sangsang":
                areas.add(area_of(name[1:]))
            elif name[0] in ("services", "kernels", "orchestrator"):
                areas.add(area_of(name))
    return areas


def sources() -> list[Path]:
    folders = ("services", "kernels", "orchestrator")
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_one_way(file):
    area = area_of(file.relative_to(ROOT).parts)
    assert imported_areas(file) <= may_import(area)


def test_a_wrong_import_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    bad = tmp_path / "orchestrator" / "bad.py"
    bad.parent.mkdir()
    bad.write_text("from ..services.diffusion.rows import Row\n")
    assert imported_areas(bad) == {"diffusion"}
    assert not imported_areas(bad) <= may_import("orchestrator")


# The package, and the files that import it so that it does not report to its makers.
QUIETLY = {
    "onnxruntime": [
        "services/runtime/engines/onnx_runtime_import.py",
        # Runs in Triton, where there is nothing of ours beside it.
        "services/runtime/model_repository/python_model.py",
    ],
    "openvino": ["services/runtime/engines/openvino_import.py"],
}


def imported_packages(file: Path) -> set[str]:
    """The top-level packages that a file imports by their names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("package", QUIETLY)
def test_what_would_report_is_imported_quietly(package):
    importing = [file for file in sources() if package in imported_packages(file)]
    assert importing == [ROOT / name for name in QUIETLY[package]]
