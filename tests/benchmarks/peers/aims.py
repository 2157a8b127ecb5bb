"""What is aimed for, beside what a run has found."""

from dataclasses import dataclass

from .results import Figures
from .schedule import PEERS

OURS = "mesh"
_TIMED, _CPU = ("timed", 1), ("cpu", 2)


@dataclass(frozen=True, slots=True)
class Aim:
    """One aim.

    Attributes:
        what: is compared.
        wanted: the figure, in words.
        found: what the run gave, in words.
        reached: whether that suffices.
    """

    what: str
    wanted: str
    found: str
    reached: bool


def aims(figures: Figures) -> list[Aim]:
    """Returns the aims that a run can tell about."""
    found = [
        _ratio(figures, _TIMED, "peak", "throughput_per_s", 1.5, PEERS),
        _ratio(figures, _CPU, "peak", "throughput_per_s", 3.0, ("offline-diffusers",)),
        _ratio(figures, _CPU, "peak", "throughput_per_s", 1.1, PEERS),
        *(
            _ratio(figures, kind, load, "goodput_per_s", 2.0, PEERS)
            for kind in (_TIMED, _CPU)
            for load in ("open-1.1", "open-1.5")
        ),
        _ratio(figures, _CPU, "peak", "throughput_per_s", 0.95, ("offline-batch",)),
        _ratio(figures, _TIMED, "peak", "throughput_per_s", 0.95, ("offline-batch",)),
        _single(figures, "added_ms", "free", 5.0, "ms added at the median, Free"),
        _single(figures, "added_ms", "pro", 5.0, "ms added at the median, Pro"),
        _single(figures, "times_bare", "pro", 1.05, "times bare engines, Pro"),
    ]
    return [aim for aim in found if aim is not None]


def best(
    figures: Figures,
    kind: tuple[str, int],
    load: str,
    metric: str,
    names: tuple[str, ...],
) -> tuple[str, float] | None:
    """Returns who of some did best, and the mean over the seeds; None if none was measured."""
    means = {name: figures.mean(kind, name, load, metric) for name in names}
    measured = {name: value for name, value in means.items() if value is not None}
    return max(measured.items(), key=lambda item: item[1]) if measured else None


def _ratio(
    figures: Figures,
    kind: tuple[str, int],
    load: str,
    metric: str,
    wanted: float,
    others: tuple[str, ...],
) -> Aim | None:
    ours, theirs = figures.mean(kind, OURS, load, metric), best(figures, kind, load, metric, others)
    if ours is None or theirs is None:
        return None
    name, value = theirs
    ratio = ours / value if value else float("inf")
    what = f"{kind[0]}, {load}: {metric.removesuffix('_per_s')} against {name}"
    said = f"{ratio:.2f} ({ours:.2f} against {value:.2f} pictures/s)"
    return Aim(what, f">= {wanted:g}", said, ratio >= wanted)


def _single(figures: Figures, metric: str, tier: str, limit: float, text: str) -> Aim | None:
    value = figures.mean(_CPU, OURS, "single", metric, tier)
    if value is None:
        return None
    return Aim(f"cpu, one request: {text}", f"<= {limit:g}", f"{value:.3g}", value <= limit)
