"""An engine of TensorRT or TensorRT-RTX in one lane of a GPU: arrays in, arrays out.

A batch is padded to the rows of a profile, a larger one goes in parts. Tensors that lie on the GPU
already are bound where they are (`run_in_place`).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import StageFailed
from .bound_context import BoundContext
from .cuda_device import torch_dtype
from .engine import Array, TensorSpec
from .execution_lane import ExecutionLane
from .plan import Plan
from .staging import StagingBuffer
from .validation import check_inputs

# What TensorRT asks of an address.
_ALIGNMENT_BYTES = 256


class PlanEngine:
    """One module of a model, compiled. See `Engine` for the attributes.

    Attributes:
        padding_row_count: rows of executions that were nobody's.

    Args:
        plan: the engine, which may run in other lanes too.
        lane: where this one runs.
    """

    def __init__(self, plan: Plan, lane: ExecutionLane) -> None:
        self.name, self.digest, self.backend = plan.name, plan.digest, plan.backend
        self.precision = plan.precision
        self._signature = plan.signature
        self._plan: Plan | None = plan
        self._lane = lane
        self.padding_row_count = 0
        self._contexts: dict[int, BoundContext] = {}
        self._buffers: dict[tuple[int, str], StagingBuffer] = {}

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._signature.outputs

    def in_lane(self, lane: ExecutionLane) -> "PlanEngine":
        """Returns the same engine in another lane: one copy of the weights, nothing else shared."""
        return PlanEngine(self._open(), lane)

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every output for a batch; see `Engine.infer`."""
        plan = self._open()
        feeds = check_inputs(self._signature, inputs)
        rows, most = len(feeds[self.inputs[0].name]), plan.most_rows
        with self._lane.lock, self._lane.device.using(self._lane.stream):
            parts = [
                self._part(
                    plan, {name: array[first : first + most] for name, array in feeds.items()}
                )
                for first in range(0, rows, most)
            ]
        return {
            spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in self.outputs
        }

    def run_in_place(self, tensors: Mapping[str, Any]) -> None:
        """Runs on tensors of the GPU where they lie, ordered with the caller's stream; no copies.

        Call it with the same tensors again and again: the second call captures a CUDA graph, which
        the others replay.

        Args:
            tensors: every input and every output, of torch or of whatever has `__dlpack__`:
                contiguous, on the GPU, aligned to 256 bytes, rows those of a profile.

        Raises:
            ValueError: one is missing, unknown, or not like that.
            StageFailed: TensorRT failed.
        """
        plan = self._open()
        specs = {spec.name: spec for spec in (*self.inputs, *self.outputs)}
        if differing := sorted(set(specs) ^ set(tensors)):
            raise ValueError(f"tensors must be {', '.join(specs)}; not so: {', '.join(differing)}")
        bound = {name: self._borrowed(specs[name], tensors[name]) for name in specs}
        shapes = {spec.name: tuple(bound[spec.name].shape) for spec in self.inputs}
        profile, (rows, *others) = plan.profile_for(shapes), [shape[0] for shape in shapes.values()]
        if set(others) - {rows} or plan.rows_at(profile, rows) != rows:
            raise ValueError(f"{self.name} has no profile for {shapes}; pad the rows to one")
        with self._lane.lock, self._lane.device.in_turn(self._lane.stream):
            context = self._context(plan, profile)
            for name, shape in context.output_shapes(shapes).items():
                if tuple(bound[name].shape) != shape:
                    raise ValueError(
                        f"{name} must have shape {list(shape)}, not {list(bound[name].shape)}"
                    )
            context.run(bound)

    def close(self) -> None:
        """Frees the engine in this lane."""
        with self._lane.lock:
            if self._contexts:
                self._lane.stream.synchronize()
            for context in self._contexts.values():
                context.close()
            self._contexts, self._buffers, self._plan = {}, {}, None

    def _open(self) -> Plan:
        if self._plan is None:
            raise StageFailed(f"{self.name} has been closed")
        return self._plan

    def _part(self, plan: Plan, feeds: Mapping[str, Array]) -> dict[str, Array]:
        count = len(feeds[self.inputs[0].name])
        profile = plan.profile_for({name: array.shape for name, array in feeds.items()})
        rows, context = plan.rows_at(profile, count), self._context(plan, profile)
        self.padding_row_count += rows - count
        tensors = {
            spec.name: self._buffer(profile, spec).put(
                feeds[spec.name], (rows, *feeds[spec.name].shape[1:])
            )
            for spec in self.inputs
        }
        given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        shapes = context.output_shapes(given)
        for spec in self.outputs:
            tensors[spec.name] = self._buffer(profile, spec).tensor(shapes[spec.name])
        context.run(tensors)
        found = {
            spec.name: self._buffer(profile, spec).fetch(shapes[spec.name], count)
            for spec in self.outputs
        }
        self._lane.stream.synchronize()
        return {name: tensor.numpy().copy() for name, tensor in found.items()}

    def _context(self, plan: Plan, profile: int) -> BoundContext:
        if profile not in self._contexts:
            self._contexts[profile] = BoundContext(plan, profile, self._lane)
        return self._contexts[profile]

    def _buffer(self, profile: int, spec: TensorSpec) -> StagingBuffer:
        return self._buffers.setdefault(
            (profile, spec.name), StagingBuffer(self._lane.device, spec.dtype)
        )

    def _borrowed(self, spec: TensorSpec, tensor: Any) -> Any:
        try:
            found = self._lane.device.borrow(tensor)
        except (ValueError, TypeError, AttributeError, RuntimeError, BufferError) as exc:
            raise ValueError(f"{spec.name} must be a tensor on the GPU: {exc}") from exc
        if found.dtype != torch_dtype(spec.dtype):
            raise ValueError(f"{spec.name} must be {spec.dtype}, not {found.dtype}")
        if not found.is_contiguous() or found.data_ptr() % _ALIGNMENT_BYTES:
            raise ValueError(
                f"{spec.name} must be contiguous, at a multiple of {_ALIGNMENT_BYTES} bytes"
            )
        return found
