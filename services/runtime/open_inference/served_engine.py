"""What a stage hands over to have an engine served: the engine, its runner, its largest batch."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ..engines.engine import Array, Engine
from ..engines.wrapped import WrappedEngine
from ..errors import FieldViolation, InvalidRequest
from ..worker import EngineWorker
from .datatypes import datatype_of


class EngineRunner(Protocol):
    """Runs engine calls off the event loop, on the stage's worker thread."""

    async def run(self, engine: Engine, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every output, after waiting for the worker.

        Cancelled when the call is cancelled or its time is up; a runner then drops work that has
        not started.

        Args:
            engine: has the attributes of the served engine but is not that object: it also takes
                the time. Call its `infer`.
            inputs: checked against the engine's specification.

        Raises:
            Overloaded: the queue is full.
            StageUnavailable: the stage is draining.
        """
        ...


class WorkerRunner:
    """Runs engine calls one by one on a stage's worker."""

    def __init__(self, worker: EngineWorker) -> None:
        self._worker = worker

    async def run(self, engine: Engine, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every output; raises Overloaded when the worker's queue is full."""
        shapes = tuple(sorted((name, array.shape) for name, array in inputs.items()))
        return await self._worker.run(engine.infer, inputs, kind=(engine.digest, shapes))


@dataclass(frozen=True, slots=True)
class ServedEngine:
    """One engine and how it is run.

    Attributes:
        engine: the network.
        runner: who calls it.
        max_batch_size: most rows of one request; 0 for an engine whose first dimension is not a
            batch.

    Raises:
        ValueError: the protocol cannot describe one of the engine's tensors.
    """

    engine: Engine
    runner: EngineRunner
    max_batch_size: int

    def __post_init__(self) -> None:
        if self.max_batch_size < 0:
            raise ValueError(f"max_batch_size is {self.max_batch_size}, must be 0 or more")
        for spec in (*self.engine.inputs, *self.engine.outputs):
            datatype_of(spec.dtype)
            if self.max_batch_size > 0 and not spec.shape:
                raise ValueError(f"{spec.name} of {self.engine.name} has no batch dimension")

    @property
    def configured_batch_size(self) -> int:
        """Returns the most rows as a configuration tells them; 0 where it tells shapes whole.

        Triton takes no limit for a model of which a tensor is nothing but a batch, as a UNet's
        `timestep`, and its clients cannot call one that has it all the same.
        """
        specs = (*self.engine.inputs, *self.engine.outputs)
        return 0 if any(len(spec.shape) == 1 for spec in specs) else self.max_batch_size

    @property
    def batch_rank(self) -> int:
        """Returns how many leading dimensions are the batch: 0 or 1."""
        return 1 if self.max_batch_size > 0 else 0


class TimedEngine(WrappedEngine):
    """An engine that notes when it was called and for how long.

    A runner awaits a queue and then calls the engine, and only the engine's side can tell the two
    apart. One is made for each request.

    Attributes:
        started_ns: `time.perf_counter_ns` of the first call; None before it.
        infer_ns: duration of all calls.
        execution_count: number of calls.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.started_ns: int | None = None
        self.infer_ns = 0
        self.execution_count = 0

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the engine's outputs.

        Raises:
            InvalidRequest: the engine refused the inputs: each fits its specification, but they
                do not fit each other.
        """
        start_ns = time.perf_counter_ns()
        if self.started_ns is None:
            self.started_ns = start_ns
        try:
            return self._engine.infer(inputs)
        except ValueError as error:
            # The text is the engine's own and may tell more than a caller should see.
            description = "the engine refused this combination of shapes"
            raise InvalidRequest([FieldViolation("inputs", description)]) from error
        finally:
            self.infer_ns += time.perf_counter_ns() - start_ns
            self.execution_count += 1

    def close(self) -> None:
        """Does nothing: the engine belongs to the stage."""
