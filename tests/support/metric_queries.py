"""What a query of Prometheus asks for, and whether that is a metric of ours."""

import re

from sangsang.services.runtime.metrics import declarations
from sangsang.services.runtime.metrics.declarations import Declared

CONSTANTS = {
    name: value for name, value in vars(declarations).items() if isinstance(value, Declared)
}
DECLARED = {one.name: one for one in CONSTANTS.values()}
PARTS = ("_bucket", "_sum", "_count")


def metrics_of(expression: str) -> set[str]:
    """The names of the series that an expression asks for."""
    return set(re.findall(r"\b(?:sangsang|process)_\w+|\bup\b", expression))


def declared_of(series: str) -> Declared | None:
    """The metric of a series of ours; None if there is no such series."""
    for part in PARTS:
        found = DECLARED.get(series.removesuffix(part))
        if series.endswith(part) and found is not None and found.kind == "histogram":
            return found
    found = DECLARED.get(series)
    return found if found is not None and found.kind != "histogram" else None


def labels_asked(expression: str) -> set[str]:
    """The labels that an expression groups or selects by."""
    grouped = re.findall(r"\b(?:by|on|without)\s*\(([^)]*)\)", expression)
    selected = re.findall(r"\{([^}]*)\}", expression)
    names = {name.strip() for part in grouped for name in part.split(",")}
    return (names | {name for part in selected for name in re.findall(r"(\w+)\s*[=!]", part)}) - {
        ""
    }
