"""The comparison as tables (terminal, Markdown) and as `evaluation.json`."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .results import Comparison, Outcome
from .scores import Estimate

JSON_NAME, MARKDOWN_NAME, FIGURE_NAME = "evaluation.json", "evaluation.md", "evaluation.png"
_ABSENT = "-"
_DIGITS = 6

Row = tuple[str, ...]


def print_report(comparison: Comparison, console: Console) -> None:
    """Prints the tables."""
    for title, header, rows in _tables(comparison):
        table = Table(*header, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(_notes(comparison), highlight=False)


def write_report(comparison: Comparison, facts: dict[str, Any], folder: Path) -> None:
    """Writes the JSON and the Markdown file into a folder.

    Args:
        comparison: what was found.
        facts: what else belongs into the JSON file, e.g. digests.
        folder: it must exist.
    """
    text = json.dumps(as_json(comparison, facts), indent=2, ensure_ascii=False)
    (folder / JSON_NAME).write_text(text + "\n", "utf-8")
    (folder / MARKDOWN_NAME).write_text(as_markdown(comparison), "utf-8")


def as_markdown(comparison: Comparison) -> str:
    """Returns the tables and what has to be known to read them."""
    lines = [f"![the same prompts and seeds]({FIGURE_NAME})", ""]
    for title, header, rows in _tables(comparison):
        lines += [f"**{title}**", "", _line(header), _line(("---",) * len(header))]
        lines += [*map(_line, rows), ""]
    return "\n".join([*lines, _notes(comparison), ""])


def as_json(comparison: Comparison, facts: dict[str, Any]) -> dict[str, Any]:
    """Returns everything but the pictures, as JSON holds it."""
    outcomes = []
    for outcome in comparison.outcomes:
        fields = asdict(outcome)
        del fields["tiles"]
        outcomes.append(fields)
    measured = {
        "engine": f"diffusers {version('diffusers')}, torch {version('torch')}, f32",
        "machine": platform.machine(),
        "seconds": f"CPU time of one thread, batches of {comparison.batch_size}, median",
    }
    return _rounded(
        {
            **facts,
            "measured": measured,
            "questions": len(comparison.questions),
            "real": asdict(comparison.real),
            "configurations": outcomes,
        }
    )


def _tables(comparison: Comparison) -> list[tuple[str, Row, list[Row]]]:
    return [
        ("Quality and cost", *_quality(comparison)),
        ("Right, by group of prompts", *_groups(comparison)),
        (f"Against {comparison.outcomes[0].configuration.name}", *_ratios(comparison)),
    ]


def _quality(comparison: Comparison) -> tuple[Row, list[Row]]:
    header = (
        "",
        "UNet evaluations",
        "seconds",
        "right",
        "first five",
        "background",
        "Fréchet distance",
        "KID x 1000",
        "variety",
    )
    real = comparison.real
    floor = (
        "real pictures",
        _ABSENT,
        _ABSENT,
        _percent(real.top1),
        _percent(real.top5, interval=False),
        _ABSENT,
        f"{real.frechet:.1f}",
        f"{real.kernel * 1000:.2f}",
        f"{real.variety:.1f}" if real.variety is not None else _ABSENT,
    )
    return header, [*(_quality_row(outcome, comparison) for outcome in comparison.outcomes), floor]


def _quality_row(outcome: Outcome, comparison: Comparison) -> Row:
    return (
        f"{outcome.configuration.name}: {outcome.configuration}",
        f"{outcome.unet_evaluations:g}",
        f"{outcome.cpu_s:.3f}",
        _percent(outcome.total.top1),
        _percent(outcome.total.top5, interval=False),
        _percent(outcome.total.background, interval=False),
        f"{outcome.frechet:.1f} ({outcome.frechet / comparison.real.frechet:.1f} x real)",
        f"{outcome.kernel * 1000:.2f}",
        f"{outcome.variety:.1f}",
    )


def _groups(comparison: Comparison) -> tuple[Row, list[Row]]:
    groups = comparison.outcomes[0].groups
    header = ("", *(f"{name} ({score.questions})" for name, score in groups.items()))
    rows = [
        (outcome.configuration.name, *(_percent(score.top1) for score in outcome.groups.values()))
        for outcome in comparison.outcomes
    ]
    return header, rows


def _ratios(comparison: Comparison) -> tuple[Row, list[Row]]:
    header = ("", "UNet evaluations", "seconds", "right", "Fréchet distance", "variety")
    rows = []
    for outcome in comparison.outcomes[1:]:
        against = outcome.against_reference
        rows.append(
            (
                outcome.configuration.name,
                _times(against.unet_evaluations),
                _times(against.cpu_s),
                _ratio(against.top1),
                f"{against.frechet:.2f}",
                f"{against.variety:.2f}" if against.variety is not None else _ABSENT,
            )
        )
    return header, rows


def _notes(comparison: Comparison) -> str:
    real, count = comparison.real, len(comparison.questions)
    return (
        f"{count} questions, the same with the same seeds for every row. Right: the judge's first "
        f"guess among {real.names} names; in brackets, 95 % bootstrap intervals. Fréchet distance "
        f"and KID: the judge's features, {count} drawn pictures against {real.reference_count} "
        f"held-out real ones; the last row, {real.sample_count} other real ones against the same. "
        "The Fréchet distance grows where samples are few, so compare it within this table only. "
        "UNet evaluations and seconds are for one picture; a guided step takes two evaluations. "
        "Seconds: CPU time of one thread in diffusers, f32, batches of "
        f"{comparison.batch_size}, text and decoding included, median."
    )


def _percent(estimate: Estimate | None, *, interval: bool = True) -> str:
    if estimate is None:
        return _ABSENT
    value, low, high = (100 * part for part in (estimate.value, estimate.low, estimate.high))
    return f"{value:.1f} % ({low:.1f} to {high:.1f})" if interval else f"{value:.1f} %"


def _ratio(estimate: Estimate | None) -> str:
    if estimate is None:
        return _ABSENT
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _times(share: float) -> str:
    return f"{share:.3g}" if share >= 1 else f"1/{1 / share:.3g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rounded(value: Any) -> Any:
    """Returns JSON values with floats cut to the digits that a rerun repeats."""
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value
