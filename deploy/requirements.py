"""Prints what `pip` installs before the package itself: `python requirements.py [EXTRA ...]`.

So that an image's layer of dependencies changes with `pyproject.toml`, not with the code.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_OWN_EXTRA = re.compile(r"sangsang\[([a-z-]+)\]")


def requirements(project: dict[str, Any], extras: list[str]) -> Iterator[str]:
    """Yields the requirements of a project and of some of its extras, which may name others."""
    yield from project["dependencies"]
    waiting = list(extras)
    while waiting:
        for requirement in project["optional-dependencies"][waiting.pop()]:
            own = _OWN_EXTRA.fullmatch(requirement)
            if own:
                waiting.append(own[1])
            else:
                yield requirement


if __name__ == "__main__":
    described = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))
    lines = requirements(described["project"], sys.argv[1:])
    sys.stdout.writelines(f"{line}\n" for line in dict.fromkeys(lines))
