"""Memory that this process and an inference server on the same machine both see."""

import mmap
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException

from .engine import Array

_FOLDER = Path("/dev/shm")  # noqa: S108 where POSIX shared memory lies; made exclusively, by a random name
_ALIGNMENT = 64


class SharedRegion:
    """A region that a server has mapped.

    Its name is gone from the file system as soon as the server has opened it, so nothing stays
    behind however either process ends.

    Attributes:
        name: as the server knows it.
        size_bytes: its size.

    Args:
        client: a `tritonclient.grpc.InferenceServerClient`.
        size_bytes: bytes of it.
        timeout_s: seconds that the server has to open it.

    Raises:
        OSError: there is not that much shared memory.
        InferenceServerException: the server cannot open it.
    """

    def __init__(self, client: Any, size_bytes: int, timeout_s: float) -> None:
        self.name = f"sangsang-region-{uuid.uuid4().hex}"
        self.size_bytes = size_bytes
        path = _FOLDER / self.name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Not only its length: a write to memory that is not there would end the process.
            os.posix_fallocate(descriptor, 0, size_bytes)
            self._memory = mmap.mmap(descriptor, size_bytes)
            client.register_system_shared_memory(
                self.name, f"/{self.name}", size_bytes, client_timeout=timeout_s
            )
        finally:
            os.close(descriptor)
            path.unlink()

    def view(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Returns a part of the region as an array, not copied."""
        return np.ndarray(shape, dtype, self._memory, offset)


class Regions:
    """The region that one engine uses now, and those that a server may still write to.

    Args:
        client: a `tritonclient.grpc.InferenceServerClient`.
        linger_s: seconds after which a server has let go of a call that failed here.
    """

    def __init__(self, client: Any, linger_s: float) -> None:
        self._client = client
        self._linger_s = linger_s
        self._current: SharedRegion | None = None
        self._abandoned: list[tuple[float, SharedRegion]] = []

    @property
    def used(self) -> bool:
        """Returns whether there is a region in use."""
        return self._current is not None

    def hold(self, size_bytes: int, timeout_s: float) -> SharedRegion:
        """Returns the region, of this size at least; see `SharedRegion` for what is raised."""
        self._sweep()
        if self._current is None or self._current.size_bytes < size_bytes:
            old, self._current = self._current, SharedRegion(self._client, size_bytes, timeout_s)
            self._unregister(old)
        return self._current

    def abandon(self) -> None:
        """Uses the region no more, because the server may still write the answer of a failed call.

        Taking it away at once could crash a server in the middle of it.
        """
        region, self._current = self._current, None
        if region is not None:
            self._abandoned.append((time.monotonic() + self._linger_s, region))

    def close(self) -> None:
        """Has the server forget every region."""
        for region in (self._current, *(region for _, region in self._abandoned)):
            self._unregister(region)
        self._current, self._abandoned = None, []

    def _sweep(self) -> None:
        now = time.monotonic()
        for until, region in self._abandoned:
            if until <= now:
                self._unregister(region)
        self._abandoned = [(until, region) for until, region in self._abandoned if until > now]

    def _unregister(self, region: SharedRegion | None) -> None:
        # A server that is gone has no region left.
        with suppress(InferenceServerException):
            if region is not None:
                self._client.unregister_system_shared_memory(region.name, client_timeout=1.0)


def aligned(size_bytes: int) -> int:
    """Returns the next size at which another tensor may begin."""
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT
