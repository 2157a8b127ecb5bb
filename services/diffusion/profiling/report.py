"""A profile in the terminal."""

from rich.console import Console
from rich.table import Table

from ...runtime.models.profile import LEAST_TOGETHER, ModelProfile


def print_profile(profile: ModelProfile, out: Console) -> None:
    """Prints steps, stages and pairs."""
    for step in profile.steps:
        table = Table(title=f"A step of the UNet, {step.width_px}x{step.height_px}")
        for name in ("rows", "ms", "ms a row", ""):
            table.add_column(name, justify="right")
        limit = profile.row_limit(step.height_px, step.width_px)
        for count, seconds in sorted(step.seconds.items()):
            mark = "more gain little" if count == limit else ""
            table.add_row(str(count), _ms(seconds), _ms(seconds / count), mark)
        out.print(table)
    table = Table("stage", "ms", title="A call of each stage, for a picture of the model's size")
    for stage, seconds in profile.stages.items():
        table.add_row(
            stage + (" (a step of one row)" if stage == "diffusion" else ""), _ms(seconds)
        )
    out.print(table)
    if profile.pairs:
        out.print(_pair_table(profile))


def _pair_table(profile: ModelProfile) -> Table:
    table = Table("stage", "other", "together", "", title="Two stages at once on one device")
    for pair in profile.pairs:
        losing = pair.together < LEAST_TOGETHER
        table.add_row(
            f"{pair.stage}, {pair.slowdown:.2f} times as long",
            f"{pair.other}, {pair.other_slowdown:.2f} times",
            f"{pair.together:.2f} of in turns",
            "had better take turns" if losing else "",
        )
    return table


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f}"
