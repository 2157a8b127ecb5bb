"""The mesh in virtual time: devices, replicas and step loops behind a scheduler."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ...services.runtime.row_scheduling import DEFAULT_TIER_WEIGHTS, ProfiledCosts, RowScheduler
from ..scheduling.cluster import DeviceSpec
from ..scheduling.work import StageName
from .devices import VirtualDevice
from .dispatcher import LaneScheduler, VirtualDispatcher
from .events import EventLoop
from .model_times import ModelTimes
from .replicas import Execution, SizePx, StepLoop, Worker
from .workload import Request


@dataclass(frozen=True, slots=True)
class Overheads:
    """What a mesh takes beside its devices, in seconds.

    Attributes:
        request_s: of a request, from and to its caller.
        call_s: of a call of each stage, while it holds its lane; 0 if not named.
        step_s: between two steps of a loop, while its device has nothing of it.
    """

    request_s: float = 0.0
    call_s: Mapping[StageName, float] = field(default_factory=dict[StageName, float])
    step_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RowRules:
    """How the step loops are set up; see `services/diffusion/settings.py`.

    Attributes:
        known: whether they know the model's profile; else they learn what steps cost.
    """

    row_limit: int = 8
    min_gain: float = 0.1
    tier_weights: Mapping[str, float] = field(default_factory=lambda: DEFAULT_TIER_WEIGHTS)
    known: bool = True


class SimulatedMesh:
    """Devices behind a scheduler.

    Attributes:
        devices: by name.
        dispatcher: drives the scheduler.

    Args:
        loop: the clock.
        scheduler: the policy.
        specs: the devices that the scheduler has.
        times: what takes how long.
        on_execution: told of each execution of a network when it ends.
    """

    def __init__(
        self,
        loop: EventLoop,
        scheduler: LaneScheduler,
        specs: Sequence[DeviceSpec],
        times: ModelTimes,
        *,
        overheads: Overheads | None = None,
        rules: RowRules | None = None,
        on_execution: Callable[[Execution], None] = lambda _: None,
    ) -> None:
        self.loop = loop
        self.times = times
        self.overheads = overheads or Overheads()
        self.dispatcher = VirtualDispatcher(scheduler, loop)
        self.devices = {spec.name: VirtualDevice(spec.name, loop, times.sharing) for spec in specs}
        self._rules = rules or RowRules()
        self._on_execution = on_execution
        # A replica stands on the first device that names it; others may share it.
        self._homes: dict[str, VirtualDevice] = {}
        for spec in specs:
            for address in spec.addresses.values():
                self._homes.setdefault(address, self.devices[spec.name])
        self._workers: dict[str, Worker] = {}
        self._loops: dict[str, StepLoop] = {}

    @property
    def wasted_step_count(self) -> int:
        """Steps of pictures that ended after their caller had left."""
        return sum(loop.wasted_step_count for loop in self._loops.values())

    def size_px(self, request: Request) -> SizePx:
        """Returns height and width of a request's pictures."""
        return request.size_px or self.times.size_px

    def worker(self, address: str) -> Worker:
        """Returns the engine thread of a replica."""
        if address not in self._workers:
            home = self._homes[address.partition("/")[0]]
            self._workers[address] = Worker(self.loop, home, self._on_execution)
        return self._workers[address]

    def step_loop(self, address: str) -> StepLoop:
        """Returns the step loop of a diffusion replica."""
        if address not in self._loops:
            rules = self._rules
            costs = ProfiledCosts[SizePx](
                rules.row_limit,
                lambda key: key,
                self.times.profile if rules.known else None,
                min_gain=rules.min_gain,
            )
            scheduler = RowScheduler(
                costs, row_limit=rules.row_limit, tier_weights=rules.tier_weights
            )
            self._loops[address] = StepLoop(
                self.loop,
                self.worker(address),
                scheduler,
                self.times.step_seconds,
                self.overheads.step_s,
            )
        return self._loops[address]
