"""A drawing of runs as data: lanes one below the other, an execution of a network in each box.

One panel for each run, all on one scale of time, as the talk's slide has them. With few requests
each has a colour of its own; with many, each stage has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..stage_colours import STAGE_COLOURS, STAGE_LABELS
from .bounds import lower_bound
from .replicas import Execution, Place
from .simulation import Run

# Colours that are told apart in light and in dark, with white letters on them.
REQUEST_COLOURS = ("#3b6fd4", "#c2571a", "#2f8f5b", "#a4439c", "#8a7a1f", "#b23a48", "#3d8a9c")


@dataclass(frozen=True, slots=True)
class Box:
    """One execution.

    Attributes:
        lane: number of its line in the panel.
        text: what is said of it on pointing at it.
    """

    lane: int
    start_s: float
    end_s: float
    label: str
    colour: str
    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One run.

    Attributes:
        lanes: their names, from top to bottom.
    """

    title: str
    lanes: tuple[str, ...]
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Runs to be drawn.

    Attributes:
        legend: names and colours.
        end_s: of the longest run.
    """

    panels: tuple[Panel, ...]
    legend: tuple[tuple[str, str], ...]
    end_s: float


def make_timeline(runs: Sequence[Run]) -> Timeline:
    """Returns the drawing of runs that were recorded.

    Raises:
        ValueError: one was not.
    """
    if any(run.outcomes and not run.executions and run.device_work_s for run in runs):
        raise ValueError("a run is drawn from its executions; simulate it with recorded=True")
    names = sorted({name for run in runs for one in run.executions for name, _ in one.pictures})
    by_request = len(names) <= len(REQUEST_COLOURS)
    colours: Mapping[str, str] = STAGE_COLOURS
    if by_request:
        colours = dict(zip(names, REQUEST_COLOURS, strict=False))
    panels = tuple(_panel(run, colours, by_request) for run in runs)
    legend = tuple((STAGE_LABELS.get(name, name), colour) for name, colour in colours.items())
    return Timeline(panels, legend, max(run.makespan_s for run in runs))


def _panel(run: Run, colours: Mapping[str, str], by_request: bool) -> Panel:
    places = _places(run)
    several = run.scenario.device_count > 1
    names = tuple(
        f"{place.device} lane {place.lane + 1}" if several else f"lane {place.lane + 1}"
        for place in places
    )
    rows = {place: number for number, place in enumerate(places)}
    boxes = tuple(
        Box(
            rows[one.place],
            one.start_s,
            one.end_s,
            _label(one),
            colours[one.pictures[0][0] if by_request else one.stage],
            _text(one),
        )
        for one in run.executions
    )
    bound = lower_bound(run)
    times = f"{run.makespan_s:.3g} s, lower bound {bound.seconds:.3g} s"
    return Panel(f"{run.scenario.name}: {times}", names, boxes)


def _places(run: Run) -> list[Place]:
    """Returns the lanes that were ever held, device by device."""
    order = {name: number for number, name in enumerate(run.device_busy_s)}
    return sorted(run.lane_busy_s, key=lambda place: (order[place.device], place.lane))


def _label(one: Execution) -> str:
    if not one.steps:
        return one.label
    return one.label if one.row_count == 1 else f"{one.row_count} rows"


def _text(one: Execution) -> str:
    times = f"{one.start_s:.4f} to {one.end_s:.4f} s, {(one.end_s - one.start_s) * 1000:.1f} ms"
    if not one.steps:
        [(name, number)] = one.pictures
        return f"{one.label} ({STAGE_LABELS[one.stage]}), {name}, picture {number + 1}\n{times}"
    members = ", ".join(
        f"{name} step {step + 1}" for (name, _), step in zip(one.pictures, one.steps, strict=True)
    )
    return f"diffusion, {one.row_count} rows: {members}\n{times}"
