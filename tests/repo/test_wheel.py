"""The wheel: what a user installs has every file that the tree has, and imports. No network."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]
# Where each folder lies in the wheel.
PLACES = {
    "services": "sangsang/services",
    "kernels": "sangsang/kernels",
    "orchestrator": "sangsang/orchestrator",
    "protos/gen/sangsang": "sangsang",
}
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing old is in it and nothing is left in the tree."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    not_ours = shutil.ignore_patterns("__pycache__", "node_modules")
    for name in ("services", "orchestrator", "kernels", "protos"):
        shutil.copytree(ROOT / name, source / name, ignore=not_ours)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    # The build's own dependencies are in this environment; isolated, they would be downloaded.
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", str(built)]
    subprocess.run([*PIP, "wheel", *options, str(source)], check=True, timeout=120)
    [path] = built.glob("sangsang-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The scripts' folder of a fresh environment with the wheel in it, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    options = ["--no-deps", "--no-index", str(wheel)]
    python = str(folder / "bin" / "python")
    subprocess.run([*PIP, "--python", python, "install", *options], check=True, timeout=120)
    return folder / "bin"


def run(command: list[str]) -> str:
    """Output of a command that finds our dependencies, but not our own editable installation.

    That one is found by a `.pth` file, which counts in site-packages, not on PYTHONPATH.
    """
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    done = subprocess.run(
        command, env=environment, cwd="/", check=True, timeout=120, capture_output=True, text=True
    )
    return done.stdout


def test_it_has_every_file_of_the_packages(wheel):
    expected = {
        f"{place}/{file.relative_to(ROOT / folder).as_posix()}"
        for folder, place in PLACES.items()
        for kind in ("*.py", "*.pyi", "*.binpb", "*.html", "*.txt")
        for file in (ROOT / folder).rglob(kind)
    }
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert files == expected
    assert {"sangsang/services/runtime/open_inference/open_inference.binpb"} <= files
    assert {"sangsang/services/diffusion/training/concepts.txt"} <= files


def test_every_package_is_imported_from_it(installed):
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    print(list(importlib.import_module(name).__path__)[0])\n"
    )
    places = run([str(installed / "python"), "-c", code, *PACKAGES]).split()
    assert len(places) == len(PACKAGES)
    assert all(Path(place).is_relative_to(installed.parent) for place in places), places


def test_its_data_is_read(installed):
    code = (
        "from sangsang.services.runtime.open_inference import messages\n"
        "from sangsang.services.diffusion.training import concepts\n"
        "print(messages.ModelInferRequest.DESCRIPTOR.full_name, len(list(concepts._listed())))\n"
    )
    assert run([str(installed / "python"), "-c", code]).split() == [
        "inference.ModelInferRequest",
        "516",
    ]


def test_its_command_runs(installed):
    assert "generate" in run([str(installed / "sangsang"), "--help"])
