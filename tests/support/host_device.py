"""A GPU's part played by the CPU's memory: streams, captured graphs, addresses, as `CudaDevice`.

What is enqueued runs at once; what is enqueued while a stream captures is kept with the addresses
and shapes of that moment and runs, as often as one likes, when it is replayed.
"""

import threading
from contextlib import contextmanager

import numpy as np
import torch

from sangsang.services.runtime.engines.cuda_device import CudaDevice, GpuIdentity, torch_dtype

GPU = GpuIdentity("Scripted GPU", 90, 132, "13.0")
# By handle, as TensorRT is given them.
STREAMS = {}


class HostStream:
    def __init__(self, high_priority):
        self.high_priority = high_priority
        self.cuda_stream = 1000 + len(STREAMS)
        self.capturing = None
        self.waited_for = []
        STREAMS[self.cuda_stream] = self

    def enqueue(self, work):
        if self.capturing is None:
            work()
        else:
            self.capturing.append(work)

    def wait_stream(self, other):
        self.waited_for.append(other)

    def synchronize(self):
        assert self.capturing is None, "a stream cannot be waited for while it captures"


class HostGraph:
    def __init__(self, device, work):
        self.device, self.work = device, work
        self.replay_count = 0

    def replay(self):
        assert self.device.current is not None, "a graph must not run on the default stream"
        self.replay_count += 1
        for launch in self.work:
            launch()


class HostDevice(CudaDevice):
    """Also counts: `graphs` are all that were captured."""

    def __init__(self):
        # Each thread has a current stream of its own, as in torch.
        self._thread = threading.local()
        self.graphs = []
        self.refuses_capture = False

    @property
    def current(self):
        return getattr(self._thread, "stream", None)

    def architecture(self, backend):
        return GPU.architecture

    def identity(self, backend):
        return GPU

    def stream(self, *, high_priority):
        return HostStream(high_priority)

    @contextmanager
    def using(self, stream):
        before, self._thread.stream = self.current, stream
        try:
            yield stream
        finally:
            self._thread.stream = before

    @contextmanager
    def in_turn(self, stream):
        stream.wait_stream("caller's")
        with self.using(stream):
            yield

    def empty(self, shape, dtype):
        assert self.current is not None, "memory of a lane is allocated on its stream"
        return aligned(torch.zeros(tuple(shape), dtype=torch_dtype(dtype)))

    def staging(self, shape, dtype):
        return torch.empty(tuple(shape), dtype=torch_dtype(dtype))

    def upload(self, array):
        return aligned(torch.from_numpy(np.array(array)))

    def borrow(self, tensor):
        return tensor if isinstance(tensor, torch.Tensor) else torch.from_dlpack(tensor)

    def capture(self, stream, enqueue):
        stream.capturing = []
        try:
            enqueue()
            if self.refuses_capture:
                raise RuntimeError("operation not permitted when stream is capturing")
            self.graphs.append(HostGraph(self, stream.capturing))
        finally:
            stream.capturing = None
        return self.graphs[-1]


def aligned(tensor):
    """A copy at a multiple of 256 bytes, as torch allocates on a GPU."""
    size = tensor.numel() * tensor.element_size()
    memory = torch.zeros(size + 256, dtype=torch.uint8)
    start = -memory.data_ptr() % 256
    place = memory[start : start + size].view(tensor.dtype).view(tensor.shape)
    return place.copy_(tensor)
