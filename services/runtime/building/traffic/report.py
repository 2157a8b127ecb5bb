"""The traffic as tables for a terminal."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from .counting import Row, Traffic

# GB/s that the data sheets state: V100 SXM2, A100 SXM 80 GB, H100 SXM.
GPUS: Mapping[str, float] = {"V100": 900.0, "A100": 2039.0, "H100": 3350.0}
_MB, _GB = 1e6, 1e9


def milliseconds(moved_bytes: float, bandwidth_gb_s: float) -> float:
    """Returns how long moving so many bytes takes, in ms; the work on them comes on top."""
    return moved_bytes / (bandwidth_gb_s * _GB) * 1e3


def traffic_table(traffic: Traffic, title: str) -> Table:
    """Returns a row for each kind of operation, and their sum, in MB (10^6 bytes)."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("operation")
    for name in ("nodes", "unfused", "fused", "minimum", "unfused / fused"):
        table.add_column(name, justify="right")
    for row in traffic.rows:
        table.add_row(*_cells(row))
    table.add_section()
    table.add_row(*_cells(traffic.total))
    return table


def time_table(traffic: Traffic, gpus: Mapping[str, float]) -> Table:
    """Returns the time that moving alone takes, in ms, for each bandwidth."""
    table = Table(title="ms to move it", title_justify="left", title_style="bold")
    table.add_column("GPU")
    for name in ("GB/s", "unfused", "fused", "minimum", "saved"):
        table.add_column(name, justify="right")
    total = traffic.total
    for gpu, bandwidth in gpus.items():
        columns = (total.unfused_bytes, total.fused_bytes, total.least_bytes)
        times = [milliseconds(moved, bandwidth) for moved in columns]
        saved = times[0] - times[1]
        table.add_row(gpu, f"{bandwidth:g}", *(f"{t:.3g}" for t in times), f"{saved:.3g}")
    return table


def notes(*, views: bool) -> Sequence[str]:
    """Returns what the figures mean, a sentence each."""
    copies = "Split, Transpose and Slice move nothing" if views else "Split and Transpose copy"
    return (
        f"unfused: each node of the graph is a kernel that reads its inputs and writes its "
        f"outputs; {copies}; biases come with their products; GroupNorm reads twice.",
        "fused: the same with our kernels where there is one. minimum: each input read once, each "
        "output written once.",
        "Moving is a lower bound of the time: convolutions and products take longer to compute, "
        "and read again what no cache held. Nothing here was timed.",
    )


def _cells(row: Row) -> tuple[str, ...]:
    moved = (row.unfused_bytes, row.fused_bytes, row.least_bytes)
    megabytes = (value / _MB for value in moved)
    said = (f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" for value in megabytes)
    ratio = row.unfused_bytes / row.fused_bytes
    return (row.kind, str(row.count), *said, "" if ratio == 1 else f"{ratio:.2f}")
