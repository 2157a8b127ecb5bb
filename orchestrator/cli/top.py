"""`sangsang top`: a running mesh, live in the terminal."""

import time
from typing import Annotated

import typer
from rich.live import Live

from ..settings import DEFAULT_METRICS_PORT
from .console import fail, out
from .top_scrapes import MeshWatch
from .top_view import frame

DEFAULT_METRICS = f"127.0.0.1:{DEFAULT_METRICS_PORT}"
# Elsewhere a port that nobody listens on may cost seconds.
_THIS_MACHINE = ("127.", "localhost:")


def top(
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metrics",
            help="host:port of a service's metrics; repeat it for others. With one on this "
            "machine, the ports after it are read too, where `sangsang up` has the stages. "
            f"Default: {DEFAULT_METRICS}.",
        ),
    ] = None,
    interval: Annotated[
        float, typer.Option(min=0.2, help="Seconds between two frames.", show_default=True)
    ] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print one frame, of all since the start, and end.")
    ] = False,
) -> None:
    """Shows a running mesh live: lanes, tiers, stages and batch steps. Ctrl-C ends it.

    [bold]Where to look when it is slow[/bold]

    [bold]lanes[/bold]: what each lane of a device runs, and its busy share, by stage.
    A diffusion lane that is idle while something waits is starved: see
    which stage before it has a line. One that is always busy, with full
    batches, needs another device.

    [bold]tiers[/bold]: finished pictures a second, times of whole requests, engine
    seconds that a picture costs, the share that came in time; and what
    waits, was refused, came late or failed.

    [bold]stages[/bold]: calls to each stage, the way there included; how long they
    waited for a lane; replicas that take calls, and how often one was lost.

    [bold]batch steps[/bold]: UNet evaluations. Rows that share one make a picture
    cheap; wasted steps were for callers who had left.

    Figures are of the last minute; in the first frame, of all since the
    start. A mesh that was not started by `sangsang up` serves its metrics
    where SANGSANG_METRICS_PORT says.
    """
    addresses = metrics or [DEFAULT_METRICS]
    follow = len(addresses) == 1 and addresses[0].startswith(_THIS_MACHINE)
    watch = MeshWatch(addresses, follow=follow)
    window = watch.look()
    if not window.ends:
        raise typer.Exit(fail(_nobody(watch.silent)))
    # A file or a pipe is no screen to draw on again and again.
    if once or not out.is_terminal:
        out.print(frame(window, watch.silent))
        return
    try:
        with Live(frame(window), console=out, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                window = watch.look()
                live.update(frame(window, watch.silent), refresh=True)
    except KeyboardInterrupt:
        # The screen is the shell's again; what was last seen stays on it.
        out.print(frame(window, watch.silent))


def _nobody(addresses: list[str]) -> str:
    where = ", ".join(addresses)
    return (
        f"no metrics at {where}; `sangsang up` serves them at {DEFAULT_METRICS}, and a service of "
        "its own where SANGSANG_METRICS_PORT says; name another address with --metrics"
    )
