"""Requests from a file: JSON lines, or CSV with a line of names.

    arrival,tier,tenant,steps,rows,pictures,size,deadline,cancel
    0.0,free,shop-1,3,1,1,512x512,2.5,
    0.4,pro,shop-2,35,2,1,,,1.0

`arrival` is needed, in seconds; what else is left out or empty has the defaults of `Request`. Times
of `deadline` and `cancel` are counted from the arrival.
"""

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from ...services.runtime.errors import FieldViolation, InvalidRequest
from .workload import Request, Workload

_MOST_COUNT = 10_000


def read_workload(path: Path) -> Workload:
    """Returns the requests of a file, sorted by their arrival.

    Raises:
        InvalidRequest: it cannot be read, or lines of it are bad; all of them are named.
    """
    requests: list[Request] = []
    bad: list[FieldViolation] = []
    for number, fields in _lines(path):
        try:
            requests.append(_request(number, fields))
        except InvalidRequest as error:
            bad += error.violations
    if bad:
        raise InvalidRequest(bad)
    if not requests:
        raise InvalidRequest([FieldViolation(str(path), "holds no request")])
    return Workload(tuple(sorted(requests, key=lambda request: request.arrival_s)))


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidRequest([FieldViolation(str(path), f"cannot be read: {exc}")]) from exc
    if path.suffix.lower() == ".csv":
        rows = csv.DictReader(text.splitlines())
        yield from ((number, row) for number, row in enumerate(rows, start=2))
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, _object(number, line)


def _object(number: int, line: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError as exc:
        raise _bad(number, "line", f"is no JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise _bad(number, "line", "is no JSON object")
    return cast(Mapping[str, Any], fields)


def _request(number: int, fields: Mapping[str, Any]) -> Request:
    named = {name: value for name, value in fields.items() if value not in (None, "")}
    bad: list[FieldViolation] = []
    values: dict[str, Any] = {"request_id": f"{number}"}
    for name, value in named.items():
        if name not in _FIELDS:
            known = ", ".join(_FIELDS)
            bad.append(FieldViolation(f"line {number}: {name}", f"is no field; {known} are"))
            continue
        try:
            values[_FIELDS[name][0]] = _FIELDS[name][1](value)
        except (ValueError, TypeError) as exc:
            bad.append(FieldViolation(f"line {number}: {name}", f"{exc}; got {value!r}"))
    if "arrival" not in named:
        bad.append(FieldViolation(f"line {number}: arrival", "is needed: seconds from the start"))
    if bad:
        raise InvalidRequest(bad)
    return Request(**values)


def _bad(number: int, name: str, text: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(f"line {number}: {name}", text)])


def _seconds(value: Any) -> float:
    try:
        seconds = float(value)
    except (ValueError, TypeError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError("must be seconds, 0 or more")
    return seconds


def _count(value: Any) -> int:
    try:
        count = int(str(value))
    except ValueError:
        count = 0
    if not 1 <= count <= _MOST_COUNT:
        raise ValueError(f"must be a whole number from 1 to {_MOST_COUNT}")
    return count


def _name(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 64:
        raise ValueError("must be a name of at most 64 characters")
    return value


def parse_size(value: Any) -> tuple[int, int]:
    """Returns height and width in pixels of `HEIGHTxWIDTH`.

    Raises:
        ValueError: it is none.
    """
    height, _, width = str(value).partition("x")
    if not (height.isascii() and height.isdigit() and width.isascii() and width.isdigit()):
        raise ValueError("must be HEIGHTxWIDTH in pixels, e.g. 512x512")
    size = int(height), int(width)
    if not 1 <= min(size) <= max(size) <= _MOST_COUNT:
        raise ValueError(f"must have sides from 1 to {_MOST_COUNT} pixels")
    return size


_FIELDS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "arrival": ("arrival_s", _seconds),
    "tier": ("tier", _name),
    "tenant": ("tenant", _name),
    "steps": ("step_count", _count),
    "rows": ("row_count", _count),
    "pictures": ("picture_count", _count),
    "size": ("size_px", parse_size),
    "deadline": ("deadline_s", _seconds),
    "cancel": ("cancel_s", _seconds),
}
