"""Memory that a compiled engine's inputs and outputs keep, on the GPU and on the CPU.

Addresses stay as they are from call to call, for a captured graph holds them.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .cuda_device import CudaDevice
from .engine import Array


class StagingBuffer:
    """One input or output of one profile. Every method works on the current stream.

    Args:
        device: the GPU.
        dtype: of the elements.
    """

    def __init__(self, device: CudaDevice, dtype: np.dtype[Any]) -> None:
        self._device, self._dtype = device, dtype
        self._gpu: Any = None
        self._cpu: Any = None
        self._size = 0

    def tensor(self, shape: Sequence[int]) -> Any:
        """Returns the GPU's memory in a shape; it moves only to grow."""
        return self._views(shape)[0]

    def put(self, rows: Array, shape: Sequence[int]) -> Any:
        """Returns the GPU's memory in a shape, its first rows those of an array.

        The other rows keep what they were: numbers of earlier calls, or zeros.
        """
        gpu, cpu = self._views(shape)
        count = len(rows)
        cpu[:count].numpy()[...] = rows
        gpu[:count].copy_(cpu[:count], non_blocking=True)
        return gpu

    def fetch(self, shape: Sequence[int], count: int) -> Any:
        """Begins to copy the first rows to the CPU; they are there when the stream is through."""
        gpu, cpu = self._views(shape)
        cpu[:count].copy_(gpu[:count], non_blocking=True)
        return cpu[:count]

    def _views(self, shape: Sequence[int]) -> tuple[Any, Any]:
        size = math.prod(shape)
        if size > self._size:
            self._gpu = self._device.empty((size,), self._dtype)
            self._cpu = self._device.staging((size,), self._dtype)
            self._size = size
        return self._gpu[:size].view(tuple(shape)), self._cpu[:size].view(tuple(shape))
