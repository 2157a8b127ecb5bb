"""The package list is complete, the namespace is ours alone, and serving stays light."""

import importlib.metadata
import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SOURCES = (
    "services",
    "kernels",
    "orchestrator",
    "protos/gen/sangsang/imaging",
    "protos/gen/sangsang/stages",
    "protos/gen/sangsang/tracing",
)


def dotted(folder: Path) -> str:
    relative = folder.relative_to(ROOT).as_posix().removeprefix("protos/gen/sangsang/")
    return "sangsang." + relative.replace("/", ".")


def test_every_folder_with_code_is_listed():
    with_code = {
        dotted(file.parent)
        for source in SOURCES
        for file in (ROOT / source).rglob("*.py")
        if "__pycache__" not in file.parts
    }
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    # The parents of generated code hold no file of their own.
    assert listed - {"sangsang.imaging", "sangsang.stages", "sangsang.tracing"} == with_code


def test_no_init_where_the_namespace_begins():
    for folder in ("services", "kernels", "orchestrator"):
        assert not (ROOT / folder / "__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_base_dependencies_are_light():
    heavy = ("torch", "diffusers", "transformers", "onnxruntime", "triton", "tensorrt")
    for requirement in PROJECT["project"]["dependencies"]:
        assert not requirement.startswith(heavy), requirement


def test_hugging_face_kernels_is_not_shadowed():
    found = importlib.metadata.packages_distributions().get("kernels", [])
    assert found == ["kernels"], "the test extra installs Hugging Face's kernels package"
    spec = importlib.util.find_spec("kernels")
    assert spec is not None
    assert spec.origin is not None
    assert "site-packages" in spec.origin


def test_diffusers_imports_beside_both_kernels_packages():
    code = (
        "import kernels, diffusers, transformers; "
        "from diffusers import StableDiffusionPipeline; "
        "import sangsang.services.runtime.errors"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd="/", check=True, timeout=120)
