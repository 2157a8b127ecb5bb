"""One frame of `sangsang top`: what runs where, how each tier fares, and what went wrong."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ...services.runtime.metrics import declarations as declared
from ..plan import TIERS
from ..scheduling.work import HEAVY_STAGE, STAGES
from .top_cells import (
    STAGE_COLOURS,
    bar,
    count,
    duration,
    nothing,
    percent,
    rate,
    span,
    table,
    words,
)
from .top_scrapes import Window

_LANE_CELLS = 16
_FILL_CELLS = 8
_WARNING, _ALARM = "yellow", "bold red"


def frame(window: Window, silent: Sequence[str] = ()) -> RenderableType:
    """Returns a frame.

    Args:
        window: what to show.
        silent: endpoints that do not answer.
    """
    parts = {
        "lanes": _lanes(window),
        "tiers": _tiers(window),
        "stages": _stages(window),
        "batch steps": _steps(window),
    }
    panels = [
        Panel(
            part,
            box=box.ROUNDED,
            border_style="bright_black",
            padding=(0, 1),
            title=f"[bold]{title}[/bold]",
            title_align="left",
        )
        for title, part in parts.items()
    ]
    return Group(_head(window, silent), *panels)


def _head(window: Window, silent: Sequence[str]) -> Text:
    waiting = _now(window, declared.REQUESTS_WAITING)
    text = Text.assemble(
        (" sangsang ", "bold black on bright_magenta"),
        f"  {_now(window, declared.REQUESTS_RUNNING):.0f} running, ",
        (f"{waiting:.0f} waiting", _WARNING if waiting else ""),
        ", ",
        duration(_now(window, declared.BACKLOG_SECONDS)),
        " of work  ",
        (_stretch(window), "dim"),
    )
    for address in silent:
        text.append(f"\n {address} does not answer", style=_ALARM)
    return text


def _stretch(window: Window) -> str:
    if not window.ends:
        return "nobody answers"
    if window.since_start:
        return f"since its start, {span(window.seconds)}"
    return f"over the last {span(window.seconds)}"


def _lanes(window: Window) -> RenderableType:
    shown = table("device", ">lane", "runs now", ">calls", ">rows", "busy", "")
    for device, lane_count in sorted(_one_label(window, declared.DEVICE_LANES, "device").items()):
        _add_lanes(shown, window, device, int(lane_count))
    if not shown.row_count:
        return Text("the metrics of the orchestrator are not read", style="dim")
    return shown


def _add_lanes(shown: Table, window: Window, device: str, lane_count: int) -> None:
    """Adds a row for each lane of a device that there is, or that was used."""
    by = ("device", "lane", "stage")
    calls = window.now(declared.LANE_CALLS, *by, "model")
    rows = window.now(declared.LANE_ROWS, *by, "model")
    busy = window.gained(declared.LANE_BUSY_SECONDS, *by)
    used = {int(place[1]) for place in (*calls, *busy) if place[0] == device}
    for first, number in enumerate(sorted(used | set(range(lane_count)))):
        here = device, str(number)
        held = sorted(place for place in calls if place[:2] == here)
        shares = {
            stage: seconds / window.seconds
            for (*place, stage), seconds in busy.items()
            if tuple(place) == here and window.seconds > 0
        }
        shown.add_row(
            "" if first else device,
            str(number),
            _holders(held),
            count(sum(calls[place] for place in held)),
            count(sum(rows[place] for place in held)),
            bar(shares, _LANE_CELLS),
            percent(sum(shares.values())),
        )


def _holders(places: Iterable[tuple[str, ...]]) -> Text:
    parts = [
        Text(f"{words(stage)} {model}", style=STAGE_COLOURS.get(stage, ""))
        for _, _, stage, model in places
    ]
    return Text(", ").join(parts) if parts else Text("idle", style="bright_black")


def _tiers(window: Window) -> RenderableType:
    heads = (">per s", ">p50", ">p95", ">compute", ">in time", ">waiting")
    shown = table("tier", *heads, ">refused", ">late", ">failed")
    queued = _one_label(window, declared.QUEUE_DEPTH, "tier")
    for tier in TIERS:
        outcomes = window.gained(declared.PICTURES, "outcome", tier=tier)
        # Those whose callers left were not wanted any more, in time or not.
        wanted = sum(outcomes.values()) - outcomes.get(("left",), 0.0)
        in_time = window.total(declared.PICTURES_IN_TIME, tier=tier)
        shown.add_row(
            Text(tier, style="bold"),
            rate(outcomes.get(("finished",), 0.0), window.seconds),
            duration(window.quantile(declared.REQUEST_SECONDS, 0.5, tier=tier)),
            duration(window.quantile(declared.REQUEST_SECONDS, 0.95, tier=tier)),
            duration(window.mean(declared.PICTURE_COMPUTE_SECONDS, tier=tier)),
            percent(in_time / wanted if wanted > 0 else None),
            count(queued.get(tier, 0.0)),
            count(window.total(declared.REFUSALS, tier=tier), _WARNING),
            count(window.total(declared.DEADLINE_MISSES, tier=tier), _ALARM),
            count(outcomes.get(("failed",), 0.0), _ALARM),
        )
    reasons = window.gained(declared.REFUSALS, "reason")
    said = [f"{reason} {number:.0f}" for (reason,), number in sorted(reasons.items()) if number]
    if not said:
        return shown
    return Group(shown, Text(f"refused: {', '.join(said)}", style=_WARNING))


def _stages(window: Window) -> RenderableType:
    heads = (">per s", ">p50", ">p95", ">wait p95", ">waiting", ">replicas", ">lost")
    shown = table("stage", *heads)
    queued = _one_label(window, declared.QUEUE_DEPTH, "stage")
    replicas = _one_label(window, declared.REPLICAS, "stage")
    for stage in STAGES:
        there = replicas.get(stage)
        shown.add_row(
            Text(words(stage), style=STAGE_COLOURS[stage]),
            rate(window.total(declared.STAGE_SECONDS, "_count", stage=stage), window.seconds),
            duration(window.quantile(declared.STAGE_SECONDS, 0.5, stage=stage)),
            duration(window.quantile(declared.STAGE_SECONDS, 0.95, stage=stage)),
            duration(window.quantile(declared.LANE_WAIT_SECONDS, 0.95, stage=stage)),
            count(queued.get(stage, 0.0)),
            nothing() if there is None else Text(f"{there:.0f}", style="" if there else _ALARM),
            count(window.total(declared.REPLICA_LOSSES, stage=stage), _ALARM),
        )
    return shown


def _steps(window: Window) -> RenderableType:
    limits = window.most(declared.STEP_ROW_LIMIT, "model")
    if not limits:
        text = f"the metrics of the {HEAVY_STAGE} service are not read; name it with --metrics"
        return Text(text, style="dim")
    heads = (">per s", ">p50", ">p95", ">rows", "", ">in flight", ">padding", ">wasted")
    shown = table("model", *heads)
    flying = _one_label(window, declared.ROWS_IN_FLIGHT, "model")
    for (model,), limit in sorted(limits.items()):
        mean = window.mean(declared.STEP_ROWS, model=model)
        rows = window.total(declared.STEP_ROWS, "_sum", model=model)
        padding = window.total(declared.STEP_PADDING_ROWS, model=model)
        shown.add_row(
            Text(model, style="bold"),
            rate(window.total(declared.STEP_SECONDS, "_count", model=model), window.seconds),
            duration(window.quantile(declared.STEP_SECONDS, 0.5, model=model)),
            duration(window.quantile(declared.STEP_SECONDS, 0.95, model=model)),
            nothing() if mean is None else Text(f"{mean:.1f} of {limit:.0f}"),
            bar({HEAVY_STAGE: (mean or 0.0) / limit}, _FILL_CELLS),
            count(flying.get(model, 0.0)),
            percent(padding / (rows + padding) if rows else None),
            count(window.total(declared.WASTED_STEPS, model=model), _WARNING),
        )
    return shown


def _one_label(window: Window, gauge: declared.Declared, label: str) -> dict[str, float]:
    return {value: number for (value,), number in window.now(gauge, label).items()}


def _now(window: Window, gauge: declared.Declared) -> float:
    return sum(window.now(gauge).values())
