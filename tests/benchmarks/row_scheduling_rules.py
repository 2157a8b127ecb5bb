"""What each rule of the row scheduler is good for, simulated: pictures in time, by tier.

70 % Free (3 steps of one row) and 30 % Pro (35 steps of two rows) arrive at random; each has three
times as long as it takes alone, and leaves when that is over. A step of `n` rows takes
`overhead + n`. Capacity is what steps of eight rows do.

Run: python -m tests.benchmarks.row_scheduling_rules
"""

import argparse
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any
from unittest import mock

from rich.console import Console
from rich.progress import track
from rich.table import Table

from sangsang.services.runtime.row_scheduling import scheduler

from ..support.virtual_device import Costs, Device

KINDS = {"free": (1, 3), "pro": (2, 35)}
FREE_SHARE = 0.7
SLACK = 3.0


def always(_room: Any, _one: Any) -> bool:
    """Fills a step up at any price."""
    return True


def in_time(room: Any, one: Any) -> bool:
    """Fills a step up as long as its leader is in time, though its tier is slowed."""
    rows = room._row_count + one.row_count
    return room._costs.step_seconds(room._key, rows) <= room._budget_s


def by_turns(room: Any, one: Any) -> bool:
    """Fills a step up as long as the leader's tier is not slower than by turns."""
    together = room._costs.step_cost(room._key, room._row_count + one.row_count)
    alone = room._costs.step_cost(room._key, room._own_count)
    return one.tier == room._tier or together * room._share <= alone


def slack_of_the_rest(order: Any, one: Any) -> float:
    """Slack that does not count the steps taken."""
    left_s = one.deadline_s - order.now_s
    if one.remaining_step_count * order.costs.step_seconds(one.key, one.row_count) > left_s:
        return float("inf")
    return left_s - one.remaining_step_count * order.full_step_s


_NOTHING_SAVED = (scheduler, "TIER_STEP_COUNT", 0)
_TURNS_AT_EACH_STEP = (scheduler, "LAST_STEP_COUNT", 0)
# What is replaced in each variant: whose, what, and by what.
VARIANTS: Mapping[str, Sequence[tuple[Any, str, Any]]] = {
    "all rules": [],
    "steps filled up though the leader is late": [(scheduler._Room, "_bearable", by_turns)],
    "steps filled up though a tier is slowed": [(scheduler._Room, "_bearable", in_time)],
    "steps always filled up": [(scheduler._Room, "_bearable", always)],
    "tiers save nothing up": [_NOTHING_SAVED],
    "nor is what has begun finished first": [_NOTHING_SAVED, _TURNS_AT_EACH_STEP],
    "slack of the remaining steps": [(scheduler._Order, "_slack_s", slack_of_the_rest)],
}


def shares_in_time(load: float, overhead: float, seed: int, duration_s: float) -> dict[str, float]:
    """Returns the share of each tier's pictures that are done in time."""
    chance, costs = random.Random(seed), Costs(overhead)
    device = Device(costs=costs)
    rows = FREE_SHARE * 3 + (1 - FREE_SHARE) * 70
    pace = load * 8 / costs.step_seconds("a", 8) / rows
    asked, done = Counter[str](), Counter[str]()
    next_s = chance.expovariate(pace)
    while next_s < duration_s or device.jobs:
        while next_s <= min(device.now_s, duration_s):
            tier = "free" if chance.random() < FREE_SHARE else "pro"
            row_count, step_count = KINDS[tier]
            alone_s = step_count * costs.step_seconds("a", row_count)
            device.add(
                tier=tier,
                row_count=row_count,
                step_count=step_count,
                arrival_s=next_s,
                deadline_s=next_s + SLACK * alone_s,
            )
            asked[tier] += 1
            next_s += chance.expovariate(pace)
        device.jobs = [job for job in device.jobs if job.deadline_s > device.now_s]
        if not device.jobs:
            device.now_s = next_s
            continue
        for job in device.step():
            if not job.remaining_step_count and device.now_s <= job.deadline_s:
                done[job.tier] += 1
    return {tier: done[tier] / asked[tier] for tier in KINDS}


def main() -> None:
    """Prints a table for each overhead."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 0.8, 1.1, 1.5])
    parser.add_argument("--overheads", type=float, nargs="+", default=[0.57, 4.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=20_000.0, help="seconds, simulated")
    arguments = parser.parse_args()
    for overhead in arguments.overheads:
        heads = [f"load {load:g}: Free, Pro" for load in arguments.loads]
        table = Table("rules", *heads, title=f"in time, a step of n rows takes {overhead:g} + n")
        for variant in track(VARIANTS, console=Console(stderr=True)):
            cells: list[str] = []
            for load in arguments.loads:
                with ExitStack() as replaced:
                    for replacement in VARIANTS[variant]:
                        replaced.enter_context(mock.patch.object(*replacement))
                    runs = [
                        shares_in_time(load, overhead, seed, arguments.duration)
                        for seed in range(arguments.seeds)
                    ]
                means = [sum(run[tier] for run in runs) / len(runs) for tier in KINDS]
                cells.append(", ".join(f"{mean:.2f}" for mean in means))
            table.add_row(variant, *cells)
        Console(width=140).print(table)


if __name__ == "__main__":
    main()
