"""The control: no scheduler, each lane runs one whole request after another.

What the talk compares with. A lane has processes of its own for every stage, so requests of two
lanes never share a step.
"""

from collections import deque
from collections.abc import Sequence

from ..scheduling.cluster import DeviceSpec
from ..scheduling.costs import Costs
from ..scheduling.work import Grant, Phase, Picture, Task, Ticket, Work


class WholeRequests:
    """Gives a free lane to the request that came first, for all of its calls.

    Attributes:
        costs: nothing is estimated.

    Args:
        devices: all of them; each has at least one lane.

    Raises:
        ValueError: a device has no limit of lanes.
    """

    def __init__(self, devices: Sequence[DeviceSpec]) -> None:
        if any(device.lane_count < 1 for device in devices):
            raise ValueError("whole requests need a number of lanes; give --lanes 1 or more")
        self.costs = Costs()
        self._free = deque(
            (device, lane)
            for lane in range(max(device.lane_count for device in devices))
            for device in devices
            if lane < device.lane_count
        )
        self._held: dict[Ticket, tuple[DeviceSpec, int]] = {}
        self._line: deque[Ticket] = deque()
        self._ready: dict[Ticket, deque[Task]] = {}
        self._running: set[Ticket] = set()

    def admit(self, work: Work, now_s: float) -> Ticket:
        """Returns the ticket of a request; none is refused."""
        ticket = Ticket(work, now_s)
        ticket.pictures = tuple(Picture(ticket, 0.0) for _ in range(work.picture_count))
        self._line.append(ticket)
        self._ready[ticket] = deque()
        return ticket

    def finish_reserve_s(self, work: Work) -> float:  # noqa: ARG002 as the scheduler
        """Returns 0: no step is planned."""
        return 0.0

    def leave(self, ticket: Ticket, now_s: float, *, finished: bool) -> None:  # noqa: ARG002 as the scheduler
        """Takes a request out; its lane is free."""
        del self._ready[ticket]
        if ticket in self._held:
            # The lane that was used last goes first, so that a device is not left half empty.
            self._free.appendleft(self._held.pop(ticket))
        else:
            self._line.remove(ticket)

    def enqueue(self, task: Task) -> None:
        """Adds a task that is ready to run."""
        self._ready[task.picture.ticket].append(task)

    def withdraw(self, task: Task) -> None:
        """Takes out a task that has not been granted."""
        self._ready[task.picture.ticket].remove(task)

    def dispatch(self, now_s: float) -> list[Grant]:  # noqa: ARG002 as the scheduler
        """Returns the tasks that may run now: one at a time of each request that has a lane."""
        while self._free and self._line:
            self._held[self._line.popleft()] = self._free.popleft()
        grants: list[Grant] = []
        for ticket, (device, lane) in self._held.items():
            if self._ready[ticket] and ticket not in self._running:
                task = self._ready[ticket].popleft()
                task.picture.phase = Phase.DENOISING
                address = f"{device.addresses[task.stage]}/{lane}"
                grants.append(Grant(task, device.name, lane, address))
                self._running.add(ticket)
        return grants

    def note_steps(self, grant: Grant, completed_step_count: int) -> None:
        """Nothing depends on steps."""

    def release(self, grant: Grant, now_s: float) -> None:  # noqa: ARG002 as the scheduler
        """Notes that a task has ended."""
        self._running.discard(grant.task.picture.ticket)
