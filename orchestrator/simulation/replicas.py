"""What serves calls in virtual time: a worker for each replica, a step loop for each model.

The loop is `services/diffusion/step_loop.py` without tensors: between two steps it lets go of who
has left, asks the `RowScheduler` that serves who is in the next one, and charges each its share.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ...services.runtime.row_scheduling import RowScheduler
from ..scheduling.work import HEAVY_STAGE, StageName
from .devices import VirtualDevice
from .events import EventLoop, Signal

SizePx = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Place:
    """A lane of a device."""

    device: str
    lane: int


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution of a network: what a timeline draws.

    Attributes:
        place: the lane that it was granted.
        label: of the network.
        pictures: whose it was: request and number of the picture.
        steps: which step it was for each, from 0; empty for a light stage.
    """

    place: Place
    stage: StageName
    label: str
    start_s: float
    end_s: float
    pictures: tuple[tuple[str, int], ...]
    row_count: int = 1
    steps: tuple[int, ...] = ()


@dataclass(eq=False, slots=True)
class EngineCall:
    """An execution that waits for its worker's thread.

    Attributes:
        ended: happens when it ends, with the seconds it took.
        dropped: whether nobody wants it any more; one that runs goes on to its end.
    """

    place: Place
    stage: StageName
    label: str
    seconds: float
    pictures: tuple[tuple[str, int], ...]
    ended: Signal[float]
    row_count: int = 1
    steps: tuple[int, ...] = ()
    dropped: bool = False


class Worker:
    """The engine thread of a replica: one execution after the other.

    Args:
        device: that it stands on.
        on_execution: told of each execution when it ends.
    """

    def __init__(
        self, loop: EventLoop, device: VirtualDevice, on_execution: Callable[[Execution], None]
    ) -> None:
        self._loop = loop
        self._device = device
        self._on_execution = on_execution
        self._queue: deque[EngineCall] = deque()
        self._running = False

    def run(self, call: EngineCall) -> Signal[float]:
        """Returns what happens when a call has been executed, with the seconds that took."""
        self._queue.append(call)
        if not self._running:
            self._running = True
            self._loop.spawn(self._drive())
        return call.ended

    async def _drive(self) -> None:
        while self._queue:
            call = self._queue.popleft()
            if call.dropped:
                continue
            start_s = self._loop.now_s
            wall_s = await self._device.run(call.stage, call.seconds)
            self._on_execution(
                Execution(
                    call.place,
                    call.stage,
                    call.label,
                    start_s,
                    self._loop.now_s,
                    call.pictures,
                    call.row_count,
                    call.steps,
                )
            )
            call.ended.set(wall_s)
        self._running = False


@dataclass(eq=False, slots=True)
class Member:
    """A picture in a step loop; a `Candidate` of the row scheduler.

    Attributes:
        key: height and width in pixels; pictures of one size share steps.
        picture: its request and its number.
        on_step: told how many steps are done.
        ended: happens after its last step.
        left: whether its caller has left.
        compute_s: its rows' share of the seconds of its steps.
        batch_rows: rows of those steps, summed.
    """

    key: SizePx
    row_count: int
    tier: str
    tenant: str
    deadline_s: float | None
    step_count: int
    arrival_s: float
    place: Place
    picture: tuple[str, int]
    on_step: Callable[[int], None]
    ended: Signal[None]
    remaining_step_count: int = 0
    last_pick: int = 0
    left: bool = False
    compute_s: float = 0.0
    batch_rows: int = 0

    @property
    def mean_batch_row_count(self) -> float:
        """Mean rows of its steps, neighbours included."""
        return self.batch_rows / self.step_count


class StepLoop:
    """Takes steps for the pictures in it, on its replica's worker.

    Attributes:
        wasted_step_count: steps of a picture that ended after its caller had left.

    Args:
        step_seconds: seconds of a step alone, by rows and size.
        pause_s: between two steps, what the loop itself takes.
    """

    def __init__(
        self,
        loop: EventLoop,
        worker: Worker,
        scheduler: RowScheduler,
        step_seconds: Callable[[int, SizePx], float],
        pause_s: float = 0.0,
    ) -> None:
        self.wasted_step_count = 0
        self._loop = loop
        self._worker = worker
        self._scheduler = scheduler
        self._step_seconds = step_seconds
        self._pause_s = pause_s
        self._members: list[Member] = []
        self._running = False

    def submit(self, member: Member) -> Signal[None]:
        """Returns what happens when a picture's steps are done."""
        member.remaining_step_count = member.step_count
        member.last_pick = self._scheduler.pick_count
        self._members.append(member)
        if not self._running:
            self._running = True
            self._loop.spawn(self._take_steps())
        return member.ended

    async def _take_steps(self) -> None:
        while True:
            self._members = [member for member in self._members if not member.left]
            if not self._members:
                break
            await self._step(self._scheduler.pick(self._members, self._loop.now_s))
            if self._pause_s:
                await self._loop.sleep(self._pause_s)
        self._running = False

    async def _step(self, batch: list[Member]) -> None:
        key, row_count = batch[0].key, sum(member.row_count for member in batch)
        for member in batch:
            member.last_pick = self._scheduler.pick_count
        call = EngineCall(
            batch[0].place,
            HEAVY_STAGE,
            HEAVY_STAGE,
            self._step_seconds(row_count, key),
            tuple(member.picture for member in batch),
            Signal(self._loop),
            row_count,
            tuple(member.step_count - member.remaining_step_count for member in batch),
        )
        seconds = await self._worker.run(call)
        self._scheduler.costs.note_step(key, row_count, seconds)
        for member in batch:
            self._deliver(member, seconds, row_count)

    def _deliver(self, member: Member, seconds: float, row_count: int) -> None:
        member.compute_s += seconds * member.row_count / row_count
        member.batch_rows += row_count
        member.remaining_step_count -= 1
        if member.left:
            self.wasted_step_count += 1
            return
        member.on_step(member.step_count - member.remaining_step_count)
        if not member.remaining_step_count:
            self._members.remove(member)
            member.ended.set(None)
