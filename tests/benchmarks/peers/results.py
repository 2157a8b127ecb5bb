"""Measurements as rows of a CSV: one figure in each, with who, on what, under which load."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

# The contender of facts about the run itself: date, machine, versions.
RUN = "run"
# The metric that says why there are no others.
FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One figure.

    Attributes:
        engines: `cpu` or `timed`; empty for facts of the run.
        devices: how many.
        contender: who.
        load: `single`, `peak`, `open-0.8`, `burst`, `cancel`, or empty.
        seed: of the load; empty where there is one.
        tier: `free`, `pro` or `all`.
        metric: what; its unit is in the name.
        value: a number, or a text for a fact.
    """

    engines: str
    devices: int
    contender: str
    load: str
    seed: str
    tier: str
    metric: str
    value: str

    @property
    def number(self) -> float:
        """The value as a number."""
        return float(self.value)


COLUMNS = tuple(field.name for field in fields(Measurement))


def write_csv(path: Path, rows: Iterable[Measurement]) -> None:
    """Writes the rows; the same rows give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read_csv(path: Path) -> list[Measurement]:
    """Returns the rows of a file that `write_csv` wrote.

    Raises:
        ValueError: it has other columns.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path} has the columns {reader.fieldnames}, not {COLUMNS}")
        return [Measurement(**{**row, "devices": int(row["devices"])}) for row in reader]


class Book:
    """Collects the measurements of one contender on one kind of engine."""

    def __init__(self, engines: str, devices: int, contender: str) -> None:
        self.rows: list[Measurement] = []
        self._about = (engines, devices, contender)

    def note(
        self,
        load: str,
        metric: str,
        value: float | str | None,
        *,
        tier: str = "all",
        seed: int | None = None,
    ) -> None:
        """Notes a figure; None is none."""
        if value is None:
            return
        text = value if isinstance(value, str) else f"{value:.6g}"
        where = (load, "" if seed is None else str(seed), tier, metric)
        self.rows.append(Measurement(*self._about, *where, text))

    def note_all(
        self,
        load: str,
        figures: Mapping[tuple[str, str], float | None],
        *,
        seed: int | None = None,
    ) -> None:
        """Notes figures by tier and metric."""
        for (tier, metric), value in figures.items():
            self.note(load, metric, value, tier=tier, seed=seed)


class Figures:
    """Looks figures up."""

    def __init__(self, rows: Iterable[Measurement]) -> None:
        self.rows = list(rows)

    def facts(self) -> dict[str, str]:
        """Returns the facts of the run."""
        return {row.metric: row.value for row in self.rows if row.contender == RUN}

    def kinds(self) -> list[tuple[str, int]]:
        """Returns the kinds of engines and numbers of devices, in the order of the file."""
        found = [(row.engines, row.devices) for row in self.rows if row.contender != RUN]
        return list(dict.fromkeys(found))

    def contenders(self, kind: tuple[str, int], load: str = "") -> list[str]:
        """Returns who was measured, in the order of the file."""
        found = [
            row.contender
            for row in self.rows
            if (row.engines, row.devices) == kind
            and row.contender != RUN
            and load in ("", row.load)
        ]
        return list(dict.fromkeys(found))

    def values(
        self, kind: tuple[str, int], contender: str, load: str, metric: str, tier: str = "all"
    ) -> list[float]:
        """Returns a figure of every seed."""
        wanted = (*kind, contender, load, metric, tier)
        return [
            row.number
            for row in self.rows
            if (row.engines, row.devices, row.contender, row.load, row.metric, row.tier) == wanted
        ]

    def mean(
        self, kind: tuple[str, int], contender: str, load: str, metric: str, tier: str = "all"
    ) -> float | None:
        """Returns the mean over the seeds; None where it was not measured."""
        values = self.values(kind, contender, load, metric, tier)
        return sum(values) / len(values) if values else None
