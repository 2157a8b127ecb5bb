"""What one GPU serves, what more do, and what is full next: the figures of deploy/growth.md.

Every figure is that of one run of `sangsang simulate`, whose command stands beside it, so anyone
can print it again; only how much is asked is searched for here: the most of which all but 5 % of
each tier is in time. What a picture costs the processor was measured (`cpu_by_process`).

Run: python -m tests.benchmarks.growth    writes the tables and the picture; a quarter of an hour
     python -m tests.benchmarks.growth --again      the same with the loads that the page has; three
     python -m tests.benchmarks.growth --devices 1,2    prints these alone
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEPLOY = Path(__file__).parents[2] / "deploy"
PAGE = DEPLOY / "growth.md"
PICTURE = DEPLOY / "growth.png"
DEVICES = (1, 2, 4, 8, 16, 64)
MIXES = {
    "Free": "--tier free=1:3x1",
    "Pro": "--tier pro=1:35x2",
    "70 % Free, 30 % Pro": "--tier free=0.7:3x1 --tier pro=0.3:35x2",
}
# Deadlines, as a multiple of what a request takes alone.
DEADLINE = 3
IN_TIME = 0.95
# Loads that are tried, in hundredths of what the devices could do at the very best.
LOADS = range(30, 126, 2)
# Of the orchestrator and of all stages of a device: CPU seconds of a Free and of a Pro picture, and
# of a MiB that is handed on, by `cpu_by_process`.
CPU_S = {"orchestrator": (0.0048, 0.0095), "stages": (0.0084, 0.0217)}
MIB_S = 0.0014
# What the orchestrator hands on of a picture of 512x512 of Stable Diffusion 1.5, in MiB: embeddings
# of 77x768 (Pro has two), noise and latents of 4x64x64, f32; and a PNG of 0.4.
HANDED_ON_MIB = (0.23 + 2 * 0.06 + 0.4, 2 * 0.23 + 2 * 0.06 + 0.4)
FREE_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class Row:
    """A run of the simulator."""

    devices: int
    mix: str
    load: int
    report: dict[str, Any]

    @property
    def command(self) -> str:
        return command(self.devices, self.mix, self.load)

    @property
    def in_time_per_s(self) -> float:
        return self.report["goodput_per_s"]

    @property
    def gpu_s(self) -> float:
        """GPU-seconds that are paid for each picture that is in time."""
        return self.devices / self.in_time_per_s

    @property
    def p95(self) -> str:
        tiers = self.report["tiers"].values()
        return ", ".join(f"{tier['latency_s']['p95']:.2f} s" for tier in tiers)

    @property
    def lanes(self) -> str:
        return ", ".join(f"{share:.0%}" for share in self.report["lane_utilisation"].values())


def request_count(devices: int) -> int:
    """Requests for each device: many where there are few, so that 5 % are some."""
    return max(50, 1600 // devices)


def command(devices: int, mix: str, load: int) -> str:
    return (
        f"sangsang simulate --devices {devices} {MIXES[mix]} --arrivals poisson "
        f"--load {load / 100:.2f} --deadline {DEADLINE} --requests {request_count(devices)}"
    )


def play(devices: int, mix: str, load: int) -> Row:
    words = shlex.split(command(devices, mix, load))[1:]
    program = [Path(sys.executable).with_name("sangsang"), *words, "--json"]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    [report] = json.loads(done.stdout)
    return Row(devices, mix, load, report)


def loads_of(page: str) -> dict[tuple[int, str], int]:
    """The load of each command of a page, by the number of devices and the mix."""
    return {
        (int(devices), mix): round(float(load) * 100)
        for mix, tiers in MIXES.items()
        for devices, load in re.findall(
            rf"^sangsang simulate --devices (\d+) {tiers} --arrivals poisson --load (\S+) ",
            page,
            re.MULTILINE,
        )
    }


def least_in_time(row: Row) -> float:
    """The share in time of the tier that has the least."""
    span_s = row.report["makespan_s"]
    tiers = row.report["tiers"].values()
    return min(tier["goodput_per_s"] * span_s / tier["requests"] for tier in tiers)


def most(
    devices: int,
    mix: str,
    play: Callable[[int, str, int], Row] = play,
    loads: Sequence[int] = LOADS,
) -> Row:
    """The run with the most load of which enough is in time, as far as halving finds it."""
    low, high = 0, len(loads)
    best: Row | None = None
    while low < high:
        middle = (low + high) // 2
        row = play(devices, mix, loads[middle])
        if least_in_time(row) >= IN_TIME:
            best, low = row, middle + 1
        else:
            high = middle
    if best is None:
        raise SystemExit(f"{mix} on {devices}: not even {loads[0]} % of the load is in time")
    return best


def cpu_cores(row: Row) -> tuple[float, float]:
    """Cores that the orchestrator and the stages of a device fill with a mix of both tiers."""
    shares = (FREE_SHARE, 1 - FREE_SHARE)
    mix = {
        name: sum(share * s for share, s in zip(shares, seconds, strict=True))
        for name, seconds in CPU_S.items()
    }
    wire_s = MIB_S * sum(s * mib for s, mib in zip(shares, HANDED_ON_MIB, strict=True))
    per_s = row.in_time_per_s
    return per_s * (mix["orchestrator"] + wire_s), per_s / row.devices * (mix["stages"] + wire_s)


def one_device(rows: Iterable[Row]) -> str:
    lines = [
        "| what is asked of one GPU | pictures in time a second | load | GPU-seconds a picture "
        "| GPU-hours for 1,000 | p95 | lanes held |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.mix} | {row.in_time_per_s:.2f} | {row.load / 100:.2f} | {row.gpu_s:.3f} | "
            f"{row.gpu_s / 3.6:.3f} | {row.p95} | {row.lanes} |"
        )
    return "\n".join(lines)


def growing(rows: Sequence[Row]) -> str:
    names = list(MIXES)
    lines = [
        "| GPUs | "
        + " | ".join(f"{name}: in time a second (load)" for name in names)
        + " | GPU-seconds a picture of the mix | orchestrator, cores | stages of a GPU, cores |",
        "|---" * (len(names) + 4) + "|",
    ]
    for count in dict.fromkeys(row.devices for row in rows):
        own = {row.mix: row for row in rows if row.devices == count}
        mixed = own[names[-1]]
        ours, beside = cpu_cores(mixed)
        cells = [f"{own[name].in_time_per_s:.1f} ({own[name].load / 100:.2f})" for name in names]
        lines.append(
            f"| {count} | {' | '.join(cells)} | {mixed.gpu_s:.3f} | {ours:.2f} | {beside:.2f} |"
        )
    return "\n".join(lines)


def commands(rows: Iterable[Row]) -> str:
    return "\n".join(["```sh", *(row.command for row in rows), "```"])


def between(text: str, name: str, written: str) -> str:
    """The text with what is written between two markers."""
    begin, end = (
        f"<!-- {name}: written by `python -m tests.benchmarks.growth` -->",
        f"<!-- {name}: end -->",
    )
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{PAGE} has no place for {name}: it needs {begin} and {end}")
    return f"{before}{begin}\n\n{written}\n\n{end}{after}"


def draw(rows: Sequence[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    served, paid = figure.subplots(1, 2)
    for name in MIXES:
        own = [row for row in rows if row.mix == name]
        counts = [row.devices for row in own]
        served.plot(counts, [row.in_time_per_s for row in own], marker="o", label=name)
        paid.plot(counts, [row.gpu_s / own[0].gpu_s for row in own], marker="o", label=name)
    limit = [row for row in rows if row.mix == list(MIXES)[-1]]
    core = limit[-1].in_time_per_s / cpu_cores(limit[-1])[0]
    served.axhline(core, color="grey", linestyle="--", linewidth=1)
    served.text(1, core * 1.15, "a core of the orchestrator", color="grey", fontsize=8)
    served.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="pictures in time a second")
    paid.set(xscale="log", xlabel="GPUs", ylabel="GPU-seconds a picture (one GPU: 1)")
    paid.set_ylim(bottom=0)
    for axes in (served, paid):
        axes.set_xticks(DEVICES, [str(count) for count in DEVICES])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    served.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Writes the page's tables, or prints those of some numbers of devices."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", help="numbers of devices, as 1,2; prints and writes nothing")
    parser.add_argument("--again", action="store_true", help="with the loads that the page has")
    arguments = parser.parse_args()
    known = loads_of(PAGE.read_text("utf-8")) if arguments.again else {}
    counts = [int(word) for word in arguments.devices.split(",")] if arguments.devices else DEVICES
    rows = []
    for count in counts:
        for mix in MIXES:
            load = known.get((count, mix))
            rows.append(most(count, mix) if load is None else play(count, mix, load))
            print(rows[-1].command, f"# {rows[-1].in_time_per_s:.2f} in time a second", flush=True)
    alone = [row for row in rows if row.devices == counts[0]]
    written = {"one": one_device(alone), "more": growing(rows), "commands": commands(rows)}
    if arguments.devices:
        print("\n\n".join(written.values()))
        return
    text = PAGE.read_text("utf-8")
    for name, table in written.items():
        text = between(text, name, table)
    PAGE.write_text(text, "utf-8")
    draw(rows, PICTURE)


if __name__ == "__main__":
    main()
