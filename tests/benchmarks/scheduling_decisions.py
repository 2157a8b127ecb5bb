"""What one decision of the lane scheduler takes, at 1 to 1,000 devices and 10 to 10,000 waiting.

A saturated mesh is played without a clock: a random call ends, its picture's next call becomes
ready, a picture that is done makes room for a new request, so that as many wait as before. A
*decision* is one `dispatch` that grants something, for each grant. A *turn* is everything that the
scheduler does for one call: admission, queue, decisions that grant nothing, steps, release. Times
are of this thread on its core, so that other work on the machine is not counted.

Run: python -m tests.benchmarks.scheduling_decisions
"""

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import track
from rich.table import Table

from sangsang.orchestrator.scheduling.admission import AdmissionLimits
from sangsang.orchestrator.scheduling.cluster import DeviceSpec, Pairs
from sangsang.orchestrator.scheduling.costs import Costs, InitialCosts
from sangsang.orchestrator.scheduling.scheduler import Policy, Scheduler
from sangsang.orchestrator.scheduling.work import STAGES, Grant, Picture, StageName, Task, Work

LIFE: tuple[StageName, ...] = ("text_encoding", "preprocessing", "diffusion", "postprocessing")
KINDS = {"free": (3, 1), "pro": (35, 2)}
COSTS = InitialCosts({1: 0.01, 8: 0.07}, dict.fromkeys(LIFE, 0.005), 512 * 512)


@dataclass
class Played:
    """A mesh that is always full.

    Attributes:
        decision_ns: of each `dispatch` that granted, for each grant.
        turn_ns: of all calls of the scheduler, summed.
    """

    scheduler: Scheduler
    model_ids: Sequence[str]
    tenant_count: int
    chance: random.Random
    decision_ns: list[float] = field(default_factory=list)
    turn_ns: int = 0
    now_s: float = 0.0
    running: list[Grant] = field(default_factory=list)
    request_count: int = 0

    def timed(self, function, *arguments, **keywords):
        started_ns = time.thread_time_ns()
        result = function(*arguments, **keywords)
        self.turn_ns += time.thread_time_ns() - started_ns
        return result

    def dispatch(self) -> None:
        started_ns = time.thread_time_ns()
        grants = self.scheduler.dispatch(self.now_s)
        took_ns = time.thread_time_ns() - started_ns
        self.turn_ns += took_ns
        if grants:
            self.decision_ns.append(took_ns / len(grants))
            self.running += grants

    def ask(self) -> None:
        self.request_count += 1
        tier = self.chance.choice(list(KINDS))
        step_count, row_count = KINDS[tier]
        model_id = self.chance.choice(self.model_ids)
        tenant = f"tenant{self.chance.randrange(self.tenant_count)}"
        work = Work(
            f"{self.request_count}",
            model_id,
            tier,
            tenant,
            None,
            1,
            step_count,
            row_count,
            512,
            512,
        )
        ticket = self.timed(self.scheduler.admit, work, self.now_s)
        self.timed(self.scheduler.enqueue, Task(ticket.pictures[0], LIFE[0]))

    def turn(self) -> None:
        """Lets a random call end."""
        self.now_s += 0.001
        at = self.chance.randrange(len(self.running))
        self.running[at], self.running[-1] = self.running[-1], self.running[at]
        grant = self.running.pop()
        if grant.task.heavy:
            self.timed(self.scheduler.note_steps, grant, grant.task.work.step_count)
        self.timed(self.scheduler.release, grant, self.now_s)
        self.dispatch()
        self.go_on(grant.task.picture, grant.task.stage)
        self.dispatch()

    def go_on(self, picture: Picture, stage: StageName) -> None:
        following = LIFE.index(stage) + 1
        if following < len(LIFE):
            self.timed(self.scheduler.enqueue, Task(picture, LIFE[following]))
            return
        self.timed(self.scheduler.leave, picture.ticket, self.now_s, finished=True)
        self.ask()


def play(
    device_count: int,
    waiting_count: int,
    turn_count: int,
    *,
    models: int = 1,
    tenants: int = 100,
    forbidden: Pairs = frozenset(),
) -> Played:
    """Returns a mesh that was played for some turns, warm-up left out."""
    devices = [
        DeviceSpec(f"device{i}", {stage: f"{stage}{i}" for stage in STAGES})
        for i in range(device_count)
    ]
    model_ids = [f"model{number}" for number in range(models)]
    scheduler = Scheduler(
        devices,
        policy=Policy(forbidden=forbidden),
        limits=AdmissionLimits(10**9, 1e12),
        costs=Costs(dict.fromkeys(model_ids, COSTS)),
    )
    played = Played(scheduler, model_ids, tenants, random.Random(0))
    # What the lanes take, and what waits behind them.
    for _ in range(device_count * 32 + waiting_count):
        played.ask()
    played.dispatch()
    for _ in range(device_count * 40 + turn_count // 4):
        played.turn()
    played.decision_ns.clear()
    played.turn_ns = 0
    for _ in range(turn_count):
        played.turn()
    return played


CASES = {
    "one model, 100 tenants": {},
    "every request its own tenant": {"tenants": 10**9},
    "three models": {"models": 3},
    "diffusion and postprocessing never together": {
        "forbidden": frozenset({frozenset(("diffusion", "postprocessing"))})
    },
}


def main() -> None:
    """Prints a table for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8, 64, 1000])
    parser.add_argument("--waiting", type=int, nargs="+", default=[10, 1000, 10_000])
    parser.add_argument("--turns", type=int, default=4000)
    parser.add_argument("--cases", type=int, default=len(CASES), help="how many of them")
    arguments = parser.parse_args()
    for name in track(list(CASES)[: arguments.cases], console=Console(stderr=True)):
        heads = [f"{waiting:,} waiting" for waiting in arguments.waiting]
        table = Table("devices", *heads, title=f"{name}: µs of CPU: decision median, p99; turn")
        for devices in arguments.devices:
            cells: list[str] = []
            for waiting in arguments.waiting:
                played = play(devices, waiting, arguments.turns, **CASES[name])
                median = statistics.median(played.decision_ns) / 1000
                p99 = statistics.quantiles(played.decision_ns, n=100)[98] / 1000
                turn = played.turn_ns / arguments.turns / 1000
                cells.append(f"{median:.0f}, {p99:.0f}; {turn:.0f}")
            table.add_row(f"{devices:,}", *cells)
        Console(width=110).print(table)


if __name__ == "__main__":
    main()
