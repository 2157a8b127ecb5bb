"""`sangsang trace`: where a request's time went."""

import re
import time
from pathlib import Path
from typing import Annotated

import typer

from ..tracing.html import to_html
from ..tracing.lanes import lane_uses
from ..tracing.perfetto import to_perfetto
from ..tracing.waterfall import waterfall
from .console import DEFAULT_ADDRESS, Address, out
from .trace_client import TraceClient, page_trace
from .trace_tables import print_lanes, print_list, print_trace

_UNITS_NS = {"ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9}

app = typer.Typer(
    help=(
        "Shows where a request's time went.\n\n"
        "The orchestrator keeps the last traces in memory, slow and failed ones longest, unless a "
        "collector gets them (SANGSANG_OTLP_ENDPOINT). A trace has a span for every wait, call and "
        "engine run of a request, and the batch steps that its rows shared with others.\n\n"
        "Start here: [bold]sangsang trace ls[/bold], then [bold]sangsang trace show last[/bold]"
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.command("ls")
def list_traces(
    slow: Annotated[
        bool, typer.Option("--slow", help="Only the slowest twentieth of each model and tier.")
    ] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only those that did not end OK.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many.")] = 20,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Lists the last requests, newest first, with where their time went.

    Each share is a part of the critical path: the chain of waits, calls and engine runs that the
    end of the request waited for. Shares add up to the latency.
    """
    found = TraceClient(address).last_requests(limit=limit, slow=slow, failed=failed)
    print_list(out, found)


@app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="Request or trace, by its ID or the beginning of it, or `last`."
        ),
    ] = "last",
    steps: Annotated[
        bool, typer.Option("--steps", help="A line for each batch step, not one for all.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page instead: zoom, details, the device's lanes; no network."),
    ] = None,
    perfetto: Annotated[
        Path | None,
        typer.Option(help="Write a file for ui.perfetto.dev or chrome://tracing instead."),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Draws one request as a waterfall: what ran when, and what its end waited for.

    Full bars are on the critical path, pale ones ran beside it. Times are milliseconds.
    """
    client = TraceClient(address)
    found = client.get(name)
    if html is None and perfetto is None:
        print_trace(out, found.summary, waterfall(found.root, every_step=steps))
        return
    top = found.root.span
    around, others = client.between(top.start_ns, top.end_ns)
    uses = lane_uses(around)
    if html is not None:
        _write(html, to_html(page_trace(found, others, uses)))
    if perfetto is not None:
        _write(perfetto, to_perfetto(found.spans, uses))


@app.command()
def lanes(
    last: Annotated[
        str, typer.Option(help="How far back, e.g. 500ms, 30s or 5m.", metavar="TIME")
    ] = "30s",
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Shows what the lanes of every device did.

    Full where an engine ran, pale where a call held the lane and no engine ran. Only what the kept
    traces tell is drawn: a busy mesh keeps a few minutes.
    """
    length_ns = parse_time_ns(last)
    end_ns = time.time_ns()
    spans, _ = TraceClient(address).between(end_ns - length_ns, end_ns)
    print_lanes(out, lane_uses(spans), end_ns - length_ns, end_ns)


def parse_time_ns(text: str) -> int:
    """Returns a length of time such as `30s` in nanoseconds.

    Raises:
        typer.BadParameter: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)", text.strip())
    if not match or not float(match[1]):
        raise typer.BadParameter(f"{text!r} is no time; try 500ms, 30s, 5m or 1h")
    return int(float(match[1]) * _UNITS_NS[match[2]])


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, "utf-8")
    out.print(f"[bold green]{path}[/bold green]", highlight=False)
