"""One request in virtual time, as it lives in `../generation.py` and `../picture_run.py`.

It is admitted or refused; each of its pictures makes its calls in order; each call waits for a
lane, holds it and gives it back. Whoever leaves or runs out of time gives back what it holds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ...services.runtime.errors import MeshError
from ..scheduling.work import HEAVY_STAGE, Grant, Picture, Task, Ticket, Work
from .events import Process, Signal
from .mesh import SimulatedMesh
from .model_times import Call
from .replicas import EngineCall, Member, Place
from .workload import Request

LeavingState = Literal["expired", "cancelled"]

# One model is simulated at a time.
MODEL_ID = "model"


@dataclass(slots=True)
class Outcome:
    """What became of a request.

    Attributes:
        reason: why it was refused, as the wire would say.
        started_s: when its first call got a lane; None if none did.
        compute_s: device-seconds that it was charged.
    """

    request: Request
    arrival_s: float
    state: Literal["running", "done", "refused", "cancelled", "expired"] = "running"
    reason: str = ""
    started_s: float | None = None
    ended_s: float = 0.0
    compute_s: float = 0.0

    @property
    def latency_s(self) -> float:
        """From its arrival to its end."""
        return self.ended_s - self.arrival_s

    @property
    def in_time(self) -> bool:
        """Whether it is done; a deadline that passed has ended it otherwise."""
        return self.state == "done"


class SimulatedRequest:
    """One request from its arrival to its end, however it ends.

    Attributes:
        outcome: what became of it.

    Args:
        on_end: called once when it has ended.
    """

    def __init__(
        self, mesh: SimulatedMesh, request: Request, on_end: Callable[[Outcome], None]
    ) -> None:
        self.outcome = Outcome(request, mesh.loop.now_s)
        self._mesh = mesh
        self._on_end = on_end
        self._calls = mesh.times.calls(request.row_count)
        self._done = Signal[None](mesh.loop)
        self._left_count = request.picture_count
        self._process = mesh.loop.spawn(self._run())
        self._leave_after("expired", request.deadline_s)
        self._leave_after("cancelled", request.cancel_s)

    def _leave_after(self, state: LeavingState, seconds: float | None) -> None:
        if seconds is not None:
            self._mesh.loop.at(self.outcome.arrival_s + seconds, lambda: self._leave(state))

    def _leave(self, state: LeavingState) -> None:
        """Ends it before its time: its caller has left, or its time is up."""
        if self.outcome.state == "running":
            self.outcome.state = state
            self._process.cancel()
            self._end()

    def _end(self) -> None:
        self.outcome.ended_s = self._mesh.loop.now_s
        self._on_end(self.outcome)

    async def _run(self) -> None:
        way_s = self._mesh.overheads.request_s / 2
        await self._pause(way_s)
        try:
            ticket = self._mesh.dispatcher.scheduler.admit(self._work(), self._mesh.loop.now_s)
        except MeshError as error:
            self.outcome.state, self.outcome.reason = "refused", error.reason
        else:
            await self._make_pictures(ticket)
            await self._pause(way_s)
            self.outcome.state = "done"
        self._end()

    async def _make_pictures(self, ticket: Ticket) -> None:
        finished, processes = False, list[Process]()
        try:
            processes += [
                self._mesh.loop.spawn(self._make_picture(picture, index))
                for index, picture in enumerate(ticket.pictures)
            ]
            await self._done
            finished = True
        finally:
            for process in processes:
                process.cancel()
            self._mesh.dispatcher.leave(ticket, finished=finished)

    async def _make_picture(self, picture: Picture, index: int) -> None:
        for call in self._calls:
            task = Task(picture, call.stage, network=call.network)
            async with self._mesh.dispatcher.lane(task) as grant:
                if self.outcome.started_s is None:
                    self.outcome.started_s = self._mesh.loop.now_s
                await self._make_call(call, grant, index)
        self._left_count -= 1
        if not self._left_count:
            self._done.set(None)

    async def _make_call(self, call: Call, grant: Grant, index: int) -> None:
        way_s = self._mesh.overheads.call_s.get(call.stage, 0.0) / 2
        await self._pause(way_s)
        if call.stage == HEAVY_STAGE:
            await self._denoise(grant, index)
        else:
            await self._execute(call, grant, index)
        await self._pause(way_s)

    async def _execute(self, call: Call, grant: Grant, index: int) -> None:
        seconds = self._mesh.times.call_seconds(call, self._mesh.size_px(self.outcome.request))
        if not seconds:
            return
        engine_call = EngineCall(
            Place(grant.device, grant.lane),
            call.stage,
            call.label or call.stage,
            seconds,
            ((self.outcome.request.request_id, index),),
            Signal(self._mesh.loop),
        )
        try:
            took_s = await self._mesh.worker(grant.address).run(engine_call)
        finally:
            engine_call.dropped = True
        self.outcome.compute_s += took_s
        self._mesh.dispatcher.scheduler.costs.observe_call(call.stage, grant.task.work, took_s)

    async def _denoise(self, grant: Grant, index: int) -> None:
        request, work = self.outcome.request, grant.task.work
        scheduler = self._mesh.dispatcher.scheduler
        reserve_s = scheduler.finish_reserve_s(work)
        member = Member(
            key=self._mesh.size_px(request),
            row_count=request.row_count,
            tier=request.tier,
            tenant=request.tenant,
            deadline_s=None if work.deadline_s is None else work.deadline_s - reserve_s,
            step_count=request.step_count,
            arrival_s=self._mesh.loop.now_s,
            place=Place(grant.device, grant.lane),
            picture=(request.request_id, index),
            on_step=lambda count: scheduler.note_steps(grant, count),
            ended=Signal(self._mesh.loop),
        )
        try:
            await self._mesh.step_loop(grant.address).submit(member)
        finally:
            member.left = True
            self.outcome.compute_s += member.compute_s
        scheduler.costs.observe_steps(work, member.compute_s, member.mean_batch_row_count)

    async def _pause(self, seconds: float) -> None:
        if seconds:
            await self._mesh.loop.sleep(seconds)

    def _work(self) -> Work:
        request, size = self.outcome.request, self._mesh.size_px(self.outcome.request)
        deadline_s = request.deadline_s
        return Work(
            request_id=request.request_id,
            model_id=MODEL_ID,
            tier=request.tier,
            tenant=request.tenant,
            deadline_s=None if deadline_s is None else self.outcome.arrival_s + deadline_s,
            picture_count=request.picture_count,
            step_count=request.step_count,
            row_count=request.row_count,
            height_px=size[0],
            width_px=size[1],
        )
