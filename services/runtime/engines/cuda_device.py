"""What engines need of a GPU, by torch: memory, streams, CUDA graphs, and which GPU it is.

All of torch's CUDA that compiled engines use is in this file, so that a test can give them the
memory of the CPU instead. torch is imported when it is used.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..errors import ModelNotReady

# Of a stream that goes before others where blocks of both wait for a place: torch's lower number.
_HIGH_PRIORITY = -1
_capturing = threading.Lock()


@dataclass(frozen=True, slots=True)
class GpuIdentity:
    """What a compiled engine depends on in the GPU that it was compiled on.

    Attributes:
        name: e.g. `NVIDIA H200`.
        architecture: its compute capability in one number, e.g. 90 for sm_90.
        multiprocessor_count: its streaming multiprocessors.
        driver_version: highest CUDA version that the driver knows, e.g. `13.0`.
    """

    name: str
    architecture: int
    multiprocessor_count: int
    driver_version: str

    def describe(self) -> str:
        """Returns all of it in one line."""
        return (
            f"sm_{self.architecture}, {self.name}, {self.multiprocessor_count} multiprocessors, "
            f"driver for CUDA {self.driver_version}"
        )


class CapturedGraph(Protocol):
    """Work that was captured once and is launched as a whole."""

    def replay(self) -> None:
        """Launches it on the current stream."""
        ...


class CudaDevice:
    """The current GPU of the process."""

    def architecture(self, backend: str) -> int:
        """Returns its compute capability in one number, e.g. 90 for sm_90.

        Args:
            backend: who asks, for the message.

        Raises:
            ModelNotReady: there is no GPU that torch can use.
            ImportError: torch is not installed.
        """
        import torch

        if not torch.cuda.is_available():
            raise ModelNotReady(
                f"backend {backend} runs on an NVIDIA GPU, and torch sees none here: see "
                "`sangsang doctor`; to serve on this machine take the backend onnxruntime"
            )
        major, minor = torch.cuda.get_device_capability()
        return major * 10 + minor

    def identity(self, backend: str) -> GpuIdentity:
        """Returns which GPU it is; arguments and errors as of `architecture`."""
        architecture = self.architecture(backend)
        import torch

        facts = torch.cuda.get_device_properties(torch.cuda.current_device())
        return GpuIdentity(facts.name, architecture, facts.multi_processor_count, _driver_version())

    def stream(self, *, high_priority: bool) -> Any:
        """Returns a new stream, never the default one."""
        import torch

        return torch.cuda.Stream(priority=_HIGH_PRIORITY if high_priority else 0)

    def using(self, stream: Any) -> AbstractContextManager[Any]:
        """Makes a stream the current one of this thread within a block."""
        import torch

        return torch.cuda.stream(stream)

    @contextmanager
    def in_turn(self, stream: Any) -> Iterator[None]:
        """Orders a block on a stream after what the current one has queued, and before the rest."""
        import torch

        outer = torch.cuda.current_stream()
        stream.wait_stream(outer)
        with torch.cuda.stream(stream):
            yield
        outer.wait_stream(stream)

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Any:
        """Returns memory of the GPU, aligned to 512 bytes; numbers in it are finite (zeros)."""
        import torch

        return torch.zeros(tuple(shape), dtype=torch_dtype(dtype), device="cuda")

    def staging(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Any:
        """Returns memory of the CPU that the GPU copies from and to by itself."""
        import torch

        return torch.empty(tuple(shape), dtype=torch_dtype(dtype), pin_memory=True)

    def upload(self, array: np.ndarray[Any, Any]) -> Any:
        """Returns a copy of an array in the GPU's memory."""
        import torch

        return torch.from_numpy(np.array(array)).cuda()

    def borrow(self, tensor: Any) -> Any:
        """Returns a tensor of this GPU as torch's, without a copy (DLPack).

        Raises:
            ValueError: it does not lie on a GPU.
        """
        import torch

        found = tensor if isinstance(tensor, torch.Tensor) else torch.from_dlpack(tensor)
        if found.device.type != "cuda":
            raise ValueError(f"it lies on {found.device}, not on the GPU")
        return found

    def capture(self, stream: Any, enqueue: Callable[[], None]) -> CapturedGraph:
        """Returns what a function enqueues on a stream, as a graph. Nothing of it runs.

        Other threads may allocate meanwhile: they serve other lanes.

        Raises:
            RuntimeError: it enqueues what cannot be captured.
        """
        import torch

        graph = torch.cuda.CUDAGraph()
        # torch keeps its random generator's state while it captures: once at a time.
        with _capturing, torch.cuda.stream(stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                enqueue()
            finally:
                graph.capture_end()
        return graph


def torch_dtype(dtype: np.dtype[Any]) -> Any:
    """Returns torch's name for a type of numpy."""
    import torch

    return torch.from_numpy(np.empty(0, dtype)).dtype


def _driver_version() -> str:
    version = ctypes.c_int(0)
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"
