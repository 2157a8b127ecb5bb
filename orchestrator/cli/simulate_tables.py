"""The figures of simulated runs as tables."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from ..simulation.report import Report


def print_report(out: Console, report: Report) -> None:
    """Prints all figures of a run."""
    table = Table("figure", "value", title=report.name, title_justify="left")
    table.add_row("makespan", f"{report.makespan_s:.4g} s")
    table.add_row(
        f"lower bound ({report.bound_kind})",
        f"{report.bound_s:.4g} s, {report.bound_ratio:.3f} of the makespan",
    )
    table.add_row("pictures", f"{report.pictures}, {report.throughput_per_s:.4g} a second")
    table.add_row("goodput", f"{report.goodput_per_s:.4g} in time a second")
    mean, least = report.device_utilisation["mean"], report.device_utilisation["least"]
    table.add_row("devices in use", f"{mean:.1%}, the least {least:.1%}")
    lanes = ", ".join(
        f"lane {int(number) + 1} {share:.1%}" for number, share in report.lane_utilisation.items()
    )
    table.add_row("lanes in use", lanes)
    table.add_row("cost of a picture", f"{report.cost_s:.4g} device-seconds paid")
    table.add_row("work of a picture", f"{report.work_s:.4g} device-seconds at full speed")
    table.add_row("steps wasted", str(report.wasted_steps))
    table.add_row("a scheduling decision", f"{report.decision_us:.0f} µs here")
    out.print(table)
    out.print(_tiers(report))


def _tiers(report: Report) -> Table:
    table = Table(
        "tier", "asked", "done", "refused", "left, late", "p50", "p95", "p99", "queue p95"
    )
    for name, tier in report.tiers.items():
        refused = ", ".join(f"{count} {reason}" for reason, count in tier.refused.items())
        table.add_row(
            name,
            str(tier.requests),
            str(tier.done),
            refused or "0",
            f"{tier.cancelled}, {tier.expired}",
            *(_seconds(tier.latency_s, rank) for rank in ("p50", "p95", "p99")),
            _seconds(tier.queue_s, "p95"),
        )
    return table


def print_sweep(out: Console, reports: Sequence[Report]) -> None:
    """Prints one line for each run."""
    table = Table(
        "devices",
        "pictures",
        "a second and device",
        "of the lower bound",
        "p99 by tier",
        "refused",
        "a decision",
    )
    for report in reports:
        late = ", ".join(
            f"{name} {_seconds(tier.latency_s, 'p99')}" for name, tier in report.tiers.items()
        )
        refused = sum(sum(tier.refused.values()) for tier in report.tiers.values())
        table.add_row(
            f"{report.devices:,}",
            f"{report.pictures:,}",
            f"{report.throughput_per_s / report.devices:.3f}",
            f"{report.bound_ratio:.3f}",
            late,
            str(refused),
            f"{report.decision_us:.0f} µs",
        )
    out.print(table)


def _seconds(values: Mapping[str, float], rank: str) -> str:
    return f"{values[rank]:.3g} s" if rank in values else ""
