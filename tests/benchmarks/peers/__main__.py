"""`python -m tests.benchmarks.peers`: our mesh and its peers, side by side on this machine.

    python -m tests.benchmarks.peers run            # everything: under half an hour
    python -m tests.benchmarks.peers run --short    # under five minutes, into another file
    python -m tests.benchmarks.peers run --only mesh --only triton-ensemble --engines timed
    python -m tests.benchmarks.peers report         # tables and plots of what was measured

The machine should do nothing else meanwhile. `make bench` makes the environments that peers need.
"""

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sangsang.services.runtime.engines.cache import DEFAULT_CACHE_PATH

from . import campaign, schedule
from .plots import draw
from .processes import new_place
from .results import FAILURE, RUN, Figures, Measurement, read_csv, write_csv
from .tables import report_text, write_into

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
README = HERE.parent / "README.md"
ROOT = HERE.parents[2]
_OURS = ("onnxruntime", "numpy", "grpcio", "diffusers", "torch")
_THEIRS = {
    "triton": ("nvidia-pytriton", "onnxruntime", "numpy"),
    "litserve": ("litserve", "onnxruntime", "numpy"),
}

_SCHEDULES = {"full": schedule.full, "short": schedule.short, "tuning": schedule.tuning}

# The mark keeps the lines of the examples apart.
_HELP = (__doc__ or "").replace("\n\n    ", "\n\n\b\n    ")

app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode=None, add_completion=False)
console = Console()


@app.command()
def run(
    short: Annotated[
        bool, typer.Option("--short", help="Fewer loads, one seed; into peers-short.csv.")
    ] = False,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune", help="Each with 4, 8 and 16 rows in a batch; into peers-tuning.csv."
        ),
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="A contender to measure; again for more. Default: all.")
    ] = None,
    engines: Annotated[
        list[str] | None, typer.Option(help="`cpu` or `timed`; again for both. Default: both.")
    ] = None,
    shares: Annotated[
        list[float] | None,
        typer.Option("--share", help="A load, of capacity; again for more. Default: all."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="The CSV to write. Default: one of tests/benchmarks/results."),
    ] = None,
    model: Annotated[Path, typer.Option(help="Model folder, built.")] = Path(
        "deploy/models/pocket"
    ),
    profile: Annotated[Path, typer.Option(help="What the timed device takes.")] = Path(
        "deploy/profiles/sd15-a100.json"
    ),
    triton_venv: Annotated[
        Path, typer.Option(help="Environment with nvidia-pytriton==0.7.0 and onnxruntime.")
    ] = Path(".venv-triton"),
    litserve_venv: Annotated[
        Path, typer.Option(help="Environment with litserve and onnxruntime.")
    ] = Path(".venv-litserve"),
    cache_dir: Annotated[Path, typer.Option(help="Where built engines lie.")] = DEFAULT_CACHE_PATH,
) -> None:
    """Measures contenders and writes a CSV; of a whole run also the README's tables and plots."""
    environments = environments_of(triton=triton_venv, litserve=litserve_venv)
    kind = "tuning" if tune else "short" if short else "full"
    try:
        parts = schedule.only(_SCHEDULES[kind](), only or (), engines or (), shares or ())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    # Ends as Ctrl-C does: with everything that was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    path = output or RESULTS / ("peers.csv" if kind == "full" else f"peers-{kind}.csv")
    rows = measure(parts, model, cache_dir, profile, environments, path)
    if kind == "full" and not (only or engines or shares or output):
        write_report(path)
    print(report_text(Figures(rows)))
    failures = [row for row in rows if row.metric == FAILURE]
    for row in failures:
        console.print(f"{row.contender} on {row.engines} failed: {row.value}", markup=False)
    if failures:
        raise typer.Exit(1)


def environments_of(**venvs: Path) -> dict[str, Path]:
    """Returns the peers' environments by name.

    Raises:
        typer.BadParameter: one is not there.
    """
    for name, path in venvs.items():
        if not (path / "bin" / "python").exists():
            raise typer.BadParameter(f"no environment {path}; `make .venv-{name}/.bench` makes it")
    return {name: path.absolute() for name, path in venvs.items()}


def measure(
    parts: Sequence[schedule.Part],
    model: Path,
    cache_dir: Path,
    profile: Path,
    environments: dict[str, Path],
    path: Path,
) -> list[Measurement]:
    """Returns what was measured; it is written to `path` as it comes."""
    place = new_place("peers")
    console.print(f"logs in {place}", highlight=False)
    rows = run_facts(environments, model, profile)
    with progress() as bar:
        task = bar.add_task("", total=campaign.schedule_seconds(parts))
        setting = campaign.Setting(
            model=model,
            cache_dir=cache_dir,
            profile=profile,
            environments=environments,
            place=place,
            tell=lambda text, behind_s: show(bar, task, text, behind_s),
        )
        for found in campaign.run(parts, setting):
            rows += found
            # Half an hour is long: what is measured is kept whatever happens next.
            write_csv(path, rows)
    console.print(f"wrote {path}", highlight=False)
    return rows


@app.command()
def report(
    csv: Annotated[Path, typer.Argument(help="A file that `run` wrote.")] = RESULTS / "peers.csv",
) -> None:
    """Prints the tables of a file, and for peers.csv writes the README's tables and the plots."""
    if csv.resolve() == (RESULTS / "peers.csv").resolve():
        write_report(csv)
    print(report_text(Figures(read_csv(csv))))


def write_report(csv: Path) -> None:
    """Writes the tables into the README and draws the plots beside the CSV."""
    figures = Figures(read_csv(csv))
    write_into(README, report_text(figures))
    draw(figures, csv.parent)


def run_facts(environments: dict[str, Path], model: Path, profile: Path) -> list[Measurement]:
    """Returns when and where this is, and with which versions of what."""
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--short") else ""),
        "model": model.name,
        "profile": profile.name,
        **{name: version(name) for name in _OURS},
    }
    for name, path in environments.items():
        code = "import importlib.metadata as m, sys; print(*(m.version(n) for n in sys.argv[1:]))"
        command = [str(path / "bin" / "python"), "-c", code, *_THEIRS[name]]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        facts |= {f"{name}: {p}": v for p, v in zip(_THEIRS[name], found, strict=True)}
    return [Measurement("", 0, RUN, "", "", "", key, value) for key, value in facts.items()]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "a CPU")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def show(bar: Progress, task: TaskID, text: str, behind_s: float) -> None:
    """Shows what is done now; where no bar can be drawn, as a line."""
    bar.update(task, description=text, completed=behind_s)
    if not bar.console.is_terminal:
        bar.console.print(f"{behind_s:.0f} s of the schedule: {text}", highlight=False)


def progress() -> Progress:
    """Returns the display of a run."""
    return Progress(
        BarColumn(20),
        TimeElapsedColumn(),
        TextColumn("about"),
        TimeRemainingColumn(),
        TextColumn("left · {task.description}", markup=False),
        console=Console(file=sys.stderr),
    )


if __name__ == "__main__":
    app()
