"""What tests of the scheduler share: devices, requests, and a driver with a clock of its own."""

from collections.abc import Iterable
from typing import Any

from sangsang.orchestrator.scheduling.cluster import DeviceSpec
from sangsang.orchestrator.scheduling.scheduler import Scheduler
from sangsang.orchestrator.scheduling.work import STAGES, Grant, Picture, Task, Ticket, Work


def make_devices(count: int = 1, *, lanes: int = 2, shared: Iterable[str] = ()) -> list[DeviceSpec]:
    """Devices with a replica of every stage; those of `shared` are the same on all."""
    return [
        DeviceSpec(
            f"device{i}",
            {stage: stage if stage in shared else f"{stage}{i}" for stage in STAGES},
            lanes,
        )
        for i in range(count)
    ]


def make_work(**changes: Any) -> Work:
    values: dict[str, Any] = {
        "request_id": "a",
        "model_id": "m",
        "tier": "free",
        "tenant": "anonymous",
        "deadline_s": None,
        "picture_count": 1,
        "step_count": 3,
        "row_count": 1,
        "height_px": 64,
        "width_px": 64,
    }
    return Work(**{**values, **changes})


class Driver:
    """Drives a scheduler by hand.

    Attributes:
        now_s: its clock.
        grants: what runs, in the order of the grants.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.now_s = 0.0
        self.grants: list[Grant] = []

    def admit(self, **changes: Any) -> Ticket:
        return self.scheduler.admit(make_work(**changes), self.now_s)

    def ready(self, picture: Picture, stage: Any, excluded: frozenset[str] = frozenset()) -> Task:
        task = Task(picture, stage, excluded)
        self.scheduler.enqueue(task)
        return task

    def dispatch(self) -> list[Grant]:
        new = self.scheduler.dispatch(self.now_s)
        self.grants += new
        return new

    def end(self, grant: Grant) -> list[Grant]:
        """Ends a call and returns what runs because of it."""
        self.grants.remove(grant)
        self.scheduler.release(grant, self.now_s)
        return self.dispatch()

    def denoising(self, **changes: Any) -> Grant:
        """A new picture's diffusion call, which has been granted."""
        [picture] = self.admit(**changes).pictures
        for stage in ("text_encoding", "diffusion"):
            task = self.ready(picture, stage)
            [grant] = [grant for grant in self.dispatch() if grant.task is task]
            if stage != "diffusion":
                self.end(grant)
        return grant
