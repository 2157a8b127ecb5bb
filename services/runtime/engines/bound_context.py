"""One execution context of TensorRT: one profile, in one lane, replayed as a CUDA graph.

A context has state (its profile, shapes, addresses), and a captured graph holds all of it; so every
profile of a lane has a context of its own, with at most one graph. The contexts of a lane share its
stream and its activation memory, for they never overlap.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from ..errors import ModelNotReady, StageFailed
from .cuda_device import CapturedGraph
from .execution_lane import Arena, ExecutionLane
from .plan import Plan

_log = structlog.get_logger()

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Bound:
    """What a captured graph depends on, beside the context itself."""

    arena: Arena
    tensors: tuple[tuple[str, int, tuple[int, ...]], ...]


class BoundContext:
    """A context at one of a plan's profiles.

    Args:
        plan: the engine.
        profile: index of the profile.
        lane: where it runs.

    Raises:
        ModelNotReady: TensorRT gives no context, e.g. for want of memory.
    """

    def __init__(self, plan: Plan, profile: int, lane: ExecutionLane) -> None:
        self._plan, self._lane = plan, lane
        strategy = plan.library.ExecutionContextAllocationStrategy.USER_MANAGED
        context = plan.engine.create_execution_context(strategy)
        if context is None:
            raise ModelNotReady(f"{plan.name}: {plan.title} gives no context; see what it says")
        self._context: Any = context
        if not context.set_optimization_profile_async(profile, lane.stream.cuda_stream):
            raise ModelNotReady(f"{plan.name}: {plan.title} has no profile {profile}")
        self._arena_bytes: int = plan.engine.get_device_memory_size_for_profile_v2(profile)
        for name, tensor in plan.fixed.items():
            self._set_shape(name, tuple(tensor.shape))
            self._set_address(name, tensor.data_ptr())
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._bound: _Bound | None = None
        self._graph: CapturedGraph | None = None
        self._captures = plan.captures

    def output_shapes(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of the outputs for those of the inputs."""
        self._set_shapes(shapes)
        return {
            spec.name: tuple(self._context.get_tensor_shape(spec.name))
            for spec in self._plan.signature.outputs
        }

    def run(self, tensors: Mapping[str, Any]) -> None:
        """Enqueues one execution on the lane's stream; does not wait for it.

        The first run with some addresses and shapes is launched kernel by kernel, and lets TensorRT
        do what it put off; the next captures a graph, and those after it replay that.

        Args:
            tensors: of the GPU: every input, padded to the profile's rows, and every output.

        Raises:
            StageFailed: TensorRT does not take a shape or an address, or fails.
        """
        bound = self._state(tensors)
        with self._lane.device.using(self._lane.stream):
            if bound != self._bound:
                self._bind(bound)
                self._execute()
                return
            if self._graph is None and self._captures:
                self._graph = self._capture()
            if self._graph is None:
                self._execute()
            else:
                self._graph.replay()

    def close(self) -> None:
        """Lets go of the graph and the context."""
        self._graph = self._bound = self._context = None

    def _state(self, tensors: Mapping[str, Any]) -> _Bound:
        return _Bound(
            self._lane.arena(self._arena_bytes),
            tuple((name, one.data_ptr(), tuple(one.shape)) for name, one in tensors.items()),
        )

    def _bind(self, bound: _Bound) -> None:
        self._graph = self._bound = None
        inputs = {spec.name for spec in self._plan.signature.inputs}
        self._set_shapes({name: shape for name, _, shape in bound.tensors if name in inputs})
        for name, address, _ in bound.tensors:
            self._set_address(name, address)
        if bound.arena.size_bytes:
            self._context.set_device_memory(bound.arena.address, bound.arena.size_bytes)
        if missing := self._context.infer_shapes():
            raise StageFailed(f"{self._plan.name} lacks {', '.join(missing)}")
        self._bound = bound

    def _capture(self) -> CapturedGraph | None:
        try:
            return self._lane.device.capture(self._lane.stream, self._execute)
        except RuntimeError as exc:
            _log.warning("cuda_graph_refused", engine=self._plan.name, reason=str(exc))
            self._captures = False
            return None

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._lane.stream.cuda_stream):
            raise StageFailed(f"{self._plan.name} failed in {self._plan.title}", fatal=True)

    def _set_shapes(self, shapes: Shapes) -> None:
        for name, shape in shapes.items():
            if self._shapes.get(name) != shape:
                # What was captured or bound is of other shapes now.
                self._graph = self._bound = None
                self._set_shape(name, shape)
                self._shapes[name] = shape

    def _set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(name, shape):
            raise StageFailed(f"{self._plan.name} was not built for {name} {list(shape)}")

    def _set_address(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise StageFailed(f"{self._plan.name} does not take the memory of {name}")
