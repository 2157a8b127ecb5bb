"""Figures as Markdown: what README shows, and what a run prints at its end."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from .aims import Aim, aims
from .outcomes import TIERS
from .results import FAILURE, Figures

BEGIN = "<!-- peers: written by `python -m tests.benchmarks.peers report` -->"
END = "<!-- peers: end -->"

Kind = tuple[str, int]


def report_text(figures: Figures) -> str:
    """Returns every table."""
    sections = [_facts(figures), _aims(aims(figures))]
    for kind in figures.kinds():
        sections.append(f"### {title(kind)}")
        sections += [
            section(figures, kind) for section in (_peak, _singles, _goodput, _latency, _burst)
        ]
    sections += [_failures(figures), _settings(figures)]
    return "\n\n".join(section for section in sections if section)


def write_into(readme: Path, text: str) -> None:
    """Replaces what lies between the marks of a README.

    Raises:
        ValueError: it has no marks.
    """
    before, begin, rest = readme.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{readme} has no lines {BEGIN} and {END}")
    readme.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", "utf-8")


def title(kind: Kind) -> str:
    """Returns a kind of engine in words."""
    name, devices = kind
    if name == "cpu":
        return f"Real engines on the CPU, {devices} cores"
    return f"Timed engines, {devices} held device{'s' if devices > 1 else ''}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table; empty without rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join((f"| {' | '.join(header)} |", "|" + "---|" * len(header), *lines))


def number(value: float | None, form: str = ".2f") -> str:
    """Returns a figure, or a dash for one that there is none of."""
    return "–" if value is None else f"{value:{form}}"


def _facts(figures: Figures) -> str:
    return ", ".join(f"{name} {value}" for name, value in figures.facts().items()) + "."


def _aims(found: Sequence[Aim]) -> str:
    rows = [(aim.what, aim.wanted, aim.found, "yes" if aim.reached else "**no**") for aim in found]
    return table(("what", "aim", "found", "reached"), rows)


def _peak(figures: Figures, kind: Kind) -> str:
    def row(name: str) -> list[str]:
        def mean(metric: str, tier: str = "all") -> float | None:
            return figures.mean(kind, name, "peak", metric, tier)

        return [
            name,
            number(mean("throughput_per_s")),
            *(number(mean("p50_ms", tier), ".0f") for tier in TIERS),
            number(mean("cpu_s_per_picture"), ".3f"),
            number(mean("memory_mib"), ".0f"),
        ]

    header = ("peak", "pictures/s", "Free p50, ms", "Pro p50, ms", "CPU s a picture", "MiB")
    return table(header, map(row, figures.contenders(kind, "peak")))


def _singles(figures: Figures, kind: Kind) -> str:
    def row(name: str) -> list[str]:
        def mean(metric: str, tier: str, load: str = "single") -> float | None:
            return figures.mean(kind, name, load, metric, tier)

        return [
            name,
            *(number(mean("p50_ms", tier), ".0f") for tier in TIERS),
            *(number(mean("added_ms", tier), ".1f") for tier in TIERS),
            number(mean("times_bare", "pro"), ".3f"),
            number(mean("first_preview_ms", "pro"), ".0f"),
            " / ".join(number(mean("pixel_difference", tier), ".0f") for tier in TIERS),
            number(mean("steps_after", "pro", "cancel"), ".1f"),
        ]

    names = [*figures.contenders(kind, "single")]
    header = (
        "one at a time",
        "Free, ms",
        "Pro, ms",
        "Free, added ms",
        "Pro, added ms",
        "Pro, times bare",
        "first preview, ms",
        "pixels differ, of 255",
        "steps begun after a cancel",
    )
    return table(header, map(row, names))


def _goodput(figures: Figures, kind: Kind) -> str:
    loads = open_loads(figures, kind)

    def cell(name: str, load: str) -> str:
        mean = figures.mean(kind, name, load, "goodput_per_s")
        shares = [figures.mean(kind, name, load, "in_time_share", tier) for tier in TIERS]
        if mean is None:
            return "–"
        return f"{number(mean)} ({', '.join(number(share) for share in shares)})"

    names = _of_any(figures, kind, loads)
    header = (
        "goodput, pictures/s (share of Free, of Pro in time)",
        *(f"{load.removeprefix('open-')} of capacity" for load in loads),
    )
    return table(header, ([name, *(cell(name, load) for load in loads)] for name in names))


def _latency(figures: Figures, kind: Kind) -> str:
    loads = open_loads(figures, kind)

    def cell(name: str, load: str, tier: str) -> str:
        metrics = ("p50_ms", "p95_ms", "p99_ms")
        return " / ".join(number(figures.mean(kind, name, load, m, tier), ".0f") for m in metrics)

    shown = [load for load in ("open-0.8", "open-1.1") if load in loads]
    header = (
        "p50 / p95 / p99 of the finished, ms",
        *(f"{tier.capitalize()}, {load.removeprefix('open-')}" for load in shown for tier in TIERS),
    )
    rows = (
        [name, *(cell(name, load, tier) for load in shown for tier in TIERS)]
        for name in _of_any(figures, kind, shown)
    )
    return table(header, rows)


def _burst(figures: Figures, kind: Kind) -> str:
    def row(name: str) -> list[str]:
        shares = [
            figures.mean(kind, name, load, "in_time_share", tier)
            for load in ("burst", "after-burst")
            for tier in TIERS
        ]
        goodput = figures.mean(kind, name, "burst", "goodput_per_s")
        return [name, number(goodput), *map(number, shares)]

    header = (
        "burst of 8x for 5 s",
        "goodput in it, pictures/s",
        "Free in time",
        "Pro in time",
        "Free in time after it",
        "Pro in time after it",
    )
    return table(header, map(row, figures.contenders(kind, "burst")))


def _failures(figures: Figures) -> str:
    rows = [row for row in figures.rows if row.metric == FAILURE]
    cells = [(row.contender, title((row.engines, row.devices)), row.value) for row in rows]
    return table(("failed", "on", "with"), cells)


def _settings(figures: Figures) -> str:
    settings: dict[tuple[str, str], str] = {}
    for row in figures.rows:
        if row.metric == "settings":
            settings[row.contender, row.engines] = row.value
    return table(("contender", "on", "settings"), ((*who, text) for who, text in settings.items()))


def open_loads(figures: Figures, kind: Kind) -> list[str]:
    """Returns the open-loop loads of a kind of engine, smallest first."""
    found = {
        row.load
        for row in figures.rows
        if (row.engines, row.devices) == kind and row.load.startswith("open-")
    }
    return sorted(found, key=lambda load: float(load.removeprefix("open-")))


def _of_any(figures: Figures, kind: Kind, loads: Sequence[str]) -> list[str]:
    measured = {name for load in loads for name in figures.contenders(kind, load)}
    return [name for name in figures.contenders(kind) if name in measured]
