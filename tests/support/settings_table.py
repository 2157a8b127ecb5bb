"""`deploy/settings.md`, from the settings classes. Run: python -m tests.support.settings_table

`tests/repo/test_settings.py` fails when the committed file is stale.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from sangsang.kernels.dispatch import KernelSettings
from sangsang.orchestrator.settings import OrchestratorSettings
from sangsang.services.diffusion.settings import DiffusionSettings
from sangsang.services.postprocessing.settings import PostprocessingSettings
from sangsang.services.preprocessing.settings import PreprocessingSettings
from sangsang.services.runtime.settings import MEBIBYTE, ProcessSettings, ServiceSettings
from sangsang.services.text_encoding.settings import TextEncodingSettings

FILE = Path(__file__).parents[2] / "deploy" / "settings.md"
INTRODUCTION = """# Settings

Every process reads its settings from environment variables once, when it starts. A value out of
its range ends the process with a message that names it. Written by `make settings` from the
settings classes; do not edit.
"""
SECTIONS: dict[str, type[BaseSettings]] = {
    "Every process": ProcessSettings,
    "Every stage": ServiceSettings,
    "Orchestrator": OrchestratorSettings,
    "Text encoding": TextEncodingSettings,
    "Preprocessing": PreprocessingSettings,
    "Diffusion": DiffusionSettings,
    "Postprocessing": PostprocessingSettings,
    "Kernels, where torch runs": KernelSettings,
}
SHARED = (ProcessSettings, ServiceSettings)
# Annotation of a range in pydantic's metadata, and how it reads.
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def settings_page() -> str:
    """The whole page."""
    sections = (f"## {title}\n\n{_table(kind)}" for title, kind in SECTIONS.items())
    return "\n".join((INTRODUCTION, *sections))


def variables(name: str, field: FieldInfo) -> list[str]:
    """The variables that a field is read from, the first that is set."""
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return [str(choice) for choice in alias.choices]
    return [f"SANGSANG_{name.upper()}"]


def _table(kind: type[BaseSettings]) -> str:
    head = "| variable | default | values | meaning |\n|---|---|---|---|\n"
    return head + "".join(_row(name, field) for name, field in _own_fields(kind))


def _own_fields(kind: type[BaseSettings]) -> Iterator[tuple[str, FieldInfo]]:
    """The fields that a class adds or changes; of a base those that not every process changes."""
    processes = [
        one for one in SECTIONS.values() if issubclass(one, ProcessSettings) and one not in SHARED
    ]
    for name, field in kind.model_fields.items():
        own = name in kind.__annotations__
        replaced = all(name in one.__annotations__ for one in processes)
        if own and (kind not in SHARED or not replaced):
            yield name, field


def _row(name: str, field: FieldInfo) -> str:
    shown = ", or ".join(f"`{variable}`" for variable in variables(name, field))
    return f"| {shown} | {_default(field.default)} | {_values(field)} | {field.description} |\n"


def _default(value: Any) -> str:
    if isinstance(value, Path):
        # The home of whoever writes the page is nobody else's.
        home = Path.home()
        value = f"~/{value.relative_to(home)}" if value.is_relative_to(home) else str(value)
    if value in (None, "", ()):
        return "none"
    text = value if isinstance(value, str) else json.dumps(value)
    size = isinstance(value, int) and value >= MEBIBYTE and value % MEBIBYTE == 0
    return f"`{text}` ({value // MEBIBYTE} MiB)" if size else f"`{text}`"


def _values(field: FieldInfo) -> str:
    kind = field.annotation
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if kind is bool:
        return "`true`, `false`"
    bounds = [
        f"{words} {getattr(constraint, key)}"
        for constraint in field.metadata
        for key, words in BOUNDS.items()
        if hasattr(constraint, key)
    ]
    return ", ".join(bounds)


if __name__ == "__main__":
    FILE.write_text(settings_page(), "utf-8")
