"""Jobs, costs and a device on a clock of its own: what the row scheduler needs, without I/O."""

from collections import Counter
from dataclasses import dataclass, field

from sangsang.services.runtime.row_scheduling import RowScheduler

ENDLESS = 10**9


@dataclass(eq=False)
class Job:
    key: str = "a"
    row_count: int = 1
    tier: str = "free"
    tenant: str = "anonymous"
    deadline_s: float | None = None
    step_count: int = ENDLESS
    remaining_step_count: int = 0
    arrival_s: float = 0.0
    last_pick: int = 0
    picks: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.remaining_step_count = self.step_count


class Costs:
    """A step of `n` rows takes `overhead + n`, times the size of its key, seconds."""

    def __init__(self, overhead=0.5, cap=8, sizes=None):
        self.overhead, self.cap, self.sizes = overhead, cap, sizes or {}

    def row_limit(self, key):
        return self.cap

    def step_cost(self, key, row_count):
        return (self.overhead + row_count) * self.sizes.get(key, 1.0)

    step_seconds = step_cost

    def note_step(self, key, row_count, seconds): ...


class Device:
    """Takes the steps that a scheduler picks, on a clock of its own.

    Attributes:
        compute: by tier and tenant, its rows' share of the steps' seconds.
    """

    def __init__(self, jobs=(), *, costs=None, row_limit=8, **options):
        self.costs = costs or Costs()
        self.scheduler = RowScheduler(self.costs, row_limit=row_limit, **options)
        self.jobs = list(jobs)
        self.now_s = 0.0
        self.compute = Counter()
        self.batches = []

    def add(self, **fields):
        fields = {"arrival_s": self.now_s, "last_pick": self.scheduler.pick_count, **fields}
        self.jobs.append(Job(**fields))
        return self.jobs[-1]

    def step(self):
        batch = self.scheduler.pick(self.jobs, self.now_s)
        row_count = sum(job.row_count for job in batch)
        seconds = self.costs.step_seconds(batch[0].key, row_count)
        self.now_s += seconds
        for job in batch:
            job.last_pick = self.scheduler.pick_count
            job.picks.append(self.scheduler.pick_count)
            job.remaining_step_count -= 1
            for name in (job.tier, job.tenant):
                self.compute[name] += seconds * job.row_count / row_count
            if not job.remaining_step_count:
                self.jobs.remove(job)
        self.batches.append(batch)
        return batch

    def run(self, step_count):
        for _ in range(step_count):
            self.step()
