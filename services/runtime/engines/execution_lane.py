"""One lane of a GPU: a stream, memory for activations, and who may use them now.

What runs in a lane runs one after the other, so its engines share the memory; engines of different
lanes run at the same time and share nothing. A lane makes no use of the GPU before it is used.
"""

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .cuda_device import CudaDevice


@dataclass(frozen=True, slots=True)
class Arena:
    """Memory of the GPU for the activations of one execution.

    Attributes:
        address: of its first byte.
        size_bytes: how much it is.
    """

    address: int
    size_bytes: int


class ExecutionLane:
    """A stream with its own activation memory.

    Attributes:
        device: the GPU.
        lock: to be held while something is run in the lane.
        high_priority: whether blocks of it go first where two lanes wait for the same place.

    Args:
        high_priority: for the lane of the diffusion model, which everything else waits for.
        device: the GPU; None takes the process's current one.
    """

    def __init__(self, *, high_priority: bool = False, device: CudaDevice | None = None) -> None:
        self.device = device or CudaDevice()
        self.high_priority = high_priority
        self.lock = threading.Lock()
        self._memory: Any = None
        self._arena = Arena(0, 0)

    @cached_property
    def stream(self) -> Any:
        """The lane's stream."""
        return self.device.stream(high_priority=self.high_priority)

    def arena(self, size_bytes: int) -> Arena:
        """Returns the activation memory, of at least some size.

        It moves when it has to grow: whoever keeps its address compares it before each execution.
        """
        if size_bytes > self._arena.size_bytes:
            # Allocated for this stream: what is freed is reused after what the stream has queued.
            with self.device.using(self.stream):
                self._memory = None
                self._memory = self.device.empty((size_bytes,), np.dtype(np.uint8))
            self._arena = Arena(self._memory.data_ptr(), size_bytes)
        return self._arena
