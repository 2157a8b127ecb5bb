"""What the mesh does when more is asked of it than it can do: a live mesh of timed devices.

- *overload*: three times its capacity for a minute, then half of it again. What is in time, as a
  share of the work that it does at its best; how long a refusal takes; how long after the end of it
  the last request was late or refused.
- *flood*: one Pro picture a second, alone and in a flood of Free ones, on two devices: on one it
  would want more than the share of its tier.
- *tenants*: tenant B at its ordinary rate, alone and beside tenant A who sends ten times its limit.

Run on a quiet machine: python -m tests.benchmarks.pressure
"""

import argparse
import asyncio
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from sangsang.services.runtime.engines.cache import DEFAULT_CACHE_PATH
from sangsang.services.runtime.engines.timed_device import device_path

from .peers import load
from .peers.client import Generator
from .peers.contender import Site
from .peers.engines import EngineChoice
from .peers.load import Ask, Rate
from .peers.mesh import MeshClient, MeshContender
from .peers.outcomes import TIERS, Ending, Outcome, in_time, percentile

MODEL_ID = "pocket"
ROOT = Path(__file__).parents[2]
CONCURRENCY = 8
WINDOW_S = 5.0


@dataclass(frozen=True, slots=True)
class Mesh:
    """A live mesh and what one picture of each tier takes on it, alone."""

    address: str
    alone_s: Mapping[str, float]

    @property
    def limits_s(self) -> dict[str, float]:
        return {tier: load.PATIENCE * seconds for tier, seconds in self.alone_s.items()}

    async def run(self, *plans: tuple[str, Sequence[Ask]]) -> list[list[Outcome]]:
        """Returns the outcomes of the plans of some tenants, which all begin now."""
        clients = [MeshClient(self.address, MODEL_ID, tenant=tenant) for tenant, _ in plans]
        loads = [
            Generator(client).open_loop(asks)
            for client, (_, asks) in zip(clients, plans, strict=True)
        ]
        found = await asyncio.gather(*loads)
        await asyncio.gather(*(client.close() for client in clients))
        return list(found)


@contextmanager
def live_mesh(profile: Path, device_count: int = 1, **environment: str) -> Iterator[Mesh]:
    place = Path(tempfile.mkdtemp(prefix="pressure-"))
    choice = EngineChoice(
        model=str(ROOT / "deploy" / "models" / MODEL_ID),
        cache_dir=str(DEFAULT_CACHE_PATH),
        backend="timed",
        profile=str(profile.resolve()),
        devices=tuple(f"{place.name}-{number}" for number in range(device_count)),
    )
    contender = MeshContender(environment=environment)
    try:
        address = contender.start(Site(choice, place, {}))
        yield Mesh(address, asyncio.run(alone(address)))
    finally:
        contender.stop()
        for device in choice.devices:
            with suppress(FileNotFoundError):
                device_path(device).unlink()


async def alone(address: str) -> dict[str, float]:
    client = MeshClient(address, MODEL_ID)
    seconds = {}
    for tier in TIERS:
        outcomes = await Generator(client).closed_loop(load.singles(tier, 6, 1), 1)
        seconds[tier] = median(one.seconds for one in outcomes[1:])
    await client.close()
    return seconds


async def best_per_s(mesh: Mesh) -> float:
    """Returns pictures of the mix a second, as many at a time as keep the device full."""
    client = MeshClient(mesh.address, MODEL_ID)
    outcomes = await Generator(client).closed_loop(load.mix(64, load.PEAK_SEED), CONCURRENCY)
    await client.close()
    return len(outcomes) / max(one.started_s + one.seconds for one in outcomes)


def work_s(outcomes: Sequence[Outcome], alone_s: Mapping[str, float]) -> float:
    """Returns what the pictures would take one after the other: a Pro counts for many Free ones."""
    return sum(alone_s[one.tier] for one in outcomes)


def p99_ms(outcomes: Sequence[Outcome], tier: str) -> float:
    seconds = [o.seconds for o in outcomes if o.tier == tier and o.ending is Ending.FINISHED]
    return 1000 * (percentile(seconds, 0.99) or float("nan"))


def overload(mesh: Mesh, factor: float, seconds: float) -> list[tuple[str, str, str]]:
    best = asyncio.run(best_per_s(mesh))
    mean_s = (1 - load.PRO_SHARE) * mesh.alone_s["free"] + load.PRO_SHARE * mesh.alone_s["pro"]
    rates = [Rate(factor, seconds), Rate(0.5, 3 * WINDOW_S)]
    asks = load.arrivals(rates, best, mesh.alone_s, 1)
    (found,) = asyncio.run(mesh.run(("", asks)))
    inside = [one for one in found if one.started_s < seconds]
    after = [
        one for one in found if one.started_s >= seconds and one.ending is not Ending.CANCELLED
    ]
    good = in_time(inside, mesh.limits_s)
    kept = {id(one) for one in in_time(after, mesh.limits_s)}
    bad_s = [one.started_s - seconds for one in after if id(one) not in kept]
    refused_s = [one.seconds for one in inside if one.ending is Ending.REFUSED]
    share = work_s(good, mesh.alone_s) / seconds / (best * mean_s)
    shares = ", ".join(
        f"{tier} {sum(o.tier == tier for o in good)} of {sum(o.tier == tier for o in inside)}"
        for tier in TIERS
    )
    return [
        ("its best, eight at a time", f"{best:.2f} pictures/s", ""),
        ("work in time, of its best", f"{share:.2f}", ">= 0.9"),
        ("in time", f"{len(good) / seconds:.2f} pictures/s ({shares})", ""),
        (
            "refusals",
            f"{len(refused_s)}, p99 {1000 * (percentile(refused_s, 0.99) or 0):.0f} ms",
            "< 50 ms",
        ),
        ("late", str(sum(one.ending is Ending.EXPIRED for one in inside)), ""),
        ("failed", str(sum(one.ending is Ending.FAILED for one in found)), "0"),
        ("last one not in time, after the end", f"{max(bad_s, default=0.0):.1f} s", "< 5 s"),
    ]


def flood(mesh: Mesh, seconds: float) -> list[tuple[str, str, str]]:
    pro = [
        replace(ask, at_s=float(at)) for at, ask in enumerate(load.singles("pro", int(seconds), 5))
    ]
    (idle,) = asyncio.run(mesh.run(("", pro)))
    draw = random.Random(6)
    count = int(4 * seconds / mesh.alone_s["free"])
    times = sorted(draw.random() * seconds for _ in range(count))
    patience_s = mesh.limits_s["free"]
    free = [
        replace(ask, at_s=at_s, patience_s=patience_s)
        for at_s, ask in zip(times, load.singles("free", count, 7), strict=True)
    ]
    beside, flooded = asyncio.run(mesh.run(("", pro), ("", free)))
    good = in_time(flooded, mesh.limits_s)
    windows = [
        sum(at <= one.started_s < at + WINDOW_S for one in good) / WINDOW_S
        for at in range(0, int(seconds), int(WINDOW_S))
    ]
    before_ms, ms = p99_ms(idle, "pro"), p99_ms(beside, "pro")
    return [
        ("Pro p99, one a second alone", f"{before_ms:.0f} ms", ""),
        ("in the flood", f"{ms:.0f} ms, {ms / before_ms:.2f} times", "<= 2 times"),
        (
            "Pro that did not come",
            str(sum(one.ending is not Ending.FINISHED for one in beside)),
            "0",
        ),
        ("Free asked", f"{count / seconds:.1f}/s", ""),
        (
            "Free in time",
            f"{len(good) / seconds:.1f}/s, the least in 5 s {min(windows):.1f}/s",
            "> 0",
        ),
    ]


def tenants(mesh: Mesh, rate_per_s: float, seconds: float) -> list[tuple[str, str, str]]:
    def plan(rate: float, seed: int) -> list[Ask]:
        asks = load.arrivals([Rate(1.0, seconds)], rate, mesh.alone_s, seed)
        return [replace(ask, cancel_after_s=None) for ask in asks]

    own = plan(rate_per_s, 8)
    (before,) = asyncio.run(mesh.run(("b", own)))
    beside, flooding = asyncio.run(mesh.run(("b", own), ("a", plan(10 * rate_per_s, 9))))
    rows = [("each tenant's limit", f"{rate_per_s:.2f}/s", "")]
    for tier in TIERS:
        alone_ms, ms = p99_ms(before, tier), p99_ms(beside, tier)
        text = f"{alone_ms:.0f} ms alone, {ms:.0f} ms beside A: {ms / alone_ms:.2f} times"
        rows.append((f"B's p99, {tier}", text, "<= 1.5 times"))
    lost = [len(some) - len(in_time(some, mesh.limits_s)) for some in (before, beside)]
    done = sum(one.ending is Ending.FINISHED for one in flooding)
    text = f"{lost[0]} alone, {lost[1]} beside A, of {len(beside)}"
    rows.append(("B's that did not come in time", text, ""))
    rows.append(("A's that came", f"{done / seconds:.2f}/s of {10 * rate_per_s:.2f}/s", ""))
    return rows


def table_of(title: str, rows: Sequence[tuple[str, str, str]]) -> Table:
    table = Table("what", "seen", "asked", title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    profile = ROOT / "deploy" / "profiles" / "sd15-a100.json"
    parser.add_argument("--profile", type=Path, default=profile, help="what the device takes")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the overload")
    arguments = parser.parse_args()
    console = Console()
    with live_mesh(arguments.profile) as mesh:
        rows = overload(mesh, 3.0, arguments.seconds)
        console.print(table_of("three times its capacity", rows))
    with live_mesh(arguments.profile, 2) as mesh:
        rows = flood(mesh, arguments.seconds / 2)
        console.print(table_of("a flood of Free beside one Pro a second", rows))
    rate_per_s = 1.0
    limits = {"SANGSANG_TENANT_RATE_PER_S": str(rate_per_s)}
    with live_mesh(arguments.profile, **limits) as mesh:
        rows = tenants(mesh, rate_per_s, arguments.seconds)
        console.print(table_of("tenant B beside tenant A, who sends ten times its limit", rows))


if __name__ == "__main__":
    main()
