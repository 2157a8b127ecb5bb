"""A device that is held and does not compute, shared by the processes that run engines on it.

Everything that runs on it at a moment progresses at the same rate, which depends on how many run.
So one number says how far all have come, the *progress*: the seconds at full speed that anything
running all along would have had. What starts with `s` seconds to do ends when the progress has
grown by `s`. The progress and those ends lie in a small file that the processes map: each computes
when it will be through and sleeps until then, and looks again, for others may have come since.
"""

import fcntl
import hashlib
import mmap
import os
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ModelNotReady, StageFailed

_MAGIC = b"timed-01"
# Magic, the rates' digest, the last serial number, when the progress was reckoned, the progress.
_HEAD = struct.Struct("<8s8sQdd")
_ENTRY = np.dtype([("serial", "<u8"), ("pid", "<u8"), ("started", "<u8"), ("end", "<f8")])
_ENTRY_COUNT = 128
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
# Nobody tells a sleeper that a neighbour was killed, and it is through earlier then.
_LONGEST_NAP_S = 0.05
_LIFE_CHECK_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class SharingRates:
    """Share of its full speed that each execution gets, by how many run.

    Attributes:
        shares: of one execution alone, of each of two, and so on; beyond the last, the device's
            total stays what it is there.
    """

    shares: tuple[float, ...] = (1.0,)

    def of(self, count: int) -> float:
        """Returns the rate of each of `count` executions, at least one."""
        if count <= len(self.shares):
            return self.shares[count - 1]
        return self.shares[-1] * len(self.shares) / count


def advance(progress: float, ends: Sequence[float], seconds: float, rates: SharingRates) -> float:
    """Returns the progress `seconds` later if nothing else starts; `ends` is sorted."""
    for index, end in enumerate(ends):
        rate = rates.of(len(ends) - index)
        needed = max(end - progress, 0.0) / rate
        if needed > seconds:
            return progress + seconds * rate
        progress, seconds = max(progress, end), seconds - needed
    return progress


def seconds_until(
    target: float, progress: float, ends: Sequence[float], rates: SharingRates
) -> float:
    """Returns how long until the progress reaches one of the sorted `ends`, if nothing starts."""
    seconds = 0.0
    for index, end in enumerate(ends):
        if progress >= target:
            break
        seconds += max(end - progress, 0.0) / rates.of(len(ends) - index)
        progress = max(progress, end)
    return seconds


class TimedDevice:
    """A device as one process sees it. Its file is made where there is none.

    Args:
        path: the file that the processes of the device share.
        rates: how executions share it; the same in every process.
        clock: seconds, the same for every process.
        sleep: waits for so many seconds.

    Raises:
        ModelNotReady: the file is something else's, or of a device of other rates.
    """

    def __init__(
        self,
        path: Path,
        rates: SharingRates,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rates, self._clock, self._sleep = rates, clock, sleep
        self._thread_lock = threading.Lock()
        self._pid, self._started = os.getpid(), _start_time(os.getpid()) or 0
        self._last_seen: dict[tuple[int, int], float] = {}
        digest = hashlib.sha256(repr(rates.shares).encode()).digest()[:8]
        self._file = os.open(path, _FLAGS, 0o600)
        try:
            self._map = _open_map(self._file, path, digest)
        except BaseException:
            os.close(self._file)
            raise
        self._entries = np.frombuffer(self._map, _ENTRY, _ENTRY_COUNT, offset=_HEAD.size)

    def hold(self, seconds: float) -> None:
        """Returns when an execution that starts now and takes `seconds` alone is through. Blocks.

        Raises:
            StageFailed: too many executions run already.
        """
        serial = self.enter(seconds)
        try:
            while (left := self.seconds_left(serial)) > 0:
                self._sleep(min(left, _LONGEST_NAP_S))
        finally:
            self.leave(serial)

    def enter(self, seconds: float) -> int:
        """Returns the number of an execution that starts now and takes `seconds` alone.

        Raises:
            StageFailed: too many executions run already.
        """
        with self._locked() as progress:
            free = np.flatnonzero(self._entries["serial"] == 0)
            if not len(free):
                raise StageFailed(f"{_ENTRY_COUNT} executions run on one device")
            serial = self._head()[2] + 1
            struct.pack_into("<Q", self._map, 16, serial)
            self._entries[free[0]] = (serial, self._pid, self._started, progress + seconds)
            return serial

    def seconds_left(self, serial: int) -> float:
        """Returns how long an execution runs on if nothing else starts; 0 when it is through."""
        with self._locked() as progress:
            own = self._entries["end"][self._entries["serial"] == serial]
            if not len(own):
                return 0.0
            return seconds_until(float(own[0]), progress, self._ends(), self._rates)

    def leave(self, serial: int) -> None:
        """Takes an execution off the device if it is not through yet."""
        with self._locked():
            self._entries["serial"][self._entries["serial"] == serial] = 0

    def close(self) -> None:
        """Lets go of the file, which stays."""
        del self._entries
        self._map.close()
        os.close(self._file)

    @contextmanager
    def _locked(self) -> Iterator[float]:
        """Keeps everybody else out; gives the progress now."""
        # A file lock is the process's own, and is gone when the process is.
        with self._thread_lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield self._reckon()
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _reckon(self) -> float:
        """Brings the file up to now and returns the progress."""
        now = self._clock()
        _, _, _, reckoned_at, progress = self._head()
        self._forget_dead(now)
        # The clock starts anew with the machine, and the file may outlive that.
        progress = advance(progress, self._ends(), max(now - reckoned_at, 0.0), self._rates)
        struct.pack_into("<dd", self._map, 24, now, progress)
        self._entries["serial"][self._entries["end"] <= progress] = 0
        return progress

    def _head(self) -> tuple[bytes, bytes, int, float, float]:
        return _HEAD.unpack_from(self._map)

    def _ends(self) -> list[float]:
        return sorted(self._entries["end"][self._entries["serial"] != 0].tolist())

    def _forget_dead(self, now: float) -> None:
        """Takes off what a process that has ended had started; looks at each now and then."""
        for entry in self._entries[self._entries["serial"] != 0]:
            owner = (int(entry["pid"]), int(entry["started"]))
            if owner == (self._pid, self._started):
                continue
            if now - self._last_seen.get(owner, -_LIFE_CHECK_INTERVAL_S) < _LIFE_CHECK_INTERVAL_S:
                continue
            self._last_seen[owner] = now
            if _start_time(owner[0]) != owner[1]:
                del self._last_seen[owner]
                self._entries["serial"][self._entries["serial"] == entry["serial"]] = 0


def device_path(name: str) -> Path:
    """Returns the file of the device of a name: in memory where there is a place for that."""
    shared = Path("/dev/shm")  # noqa: S108 opened without following links, readable to its owner
    place = shared if shared.is_dir() else Path(tempfile.gettempdir())
    return place / f"sangsang-timed-{name}"


def read_rates(values: Mapping[str, float]) -> SharingRates:
    """Returns the rates that a profile gives by the number of executions, from `1` on.

    Raises:
        ValueError: a number is missing, or a rate is not positive.
    """
    counts = [str(count) for count in range(1, len(values) + 1)]
    if not values or set(values) != set(counts):
        raise ValueError("rates must be given for 1, 2 and so on, without gaps")
    shares = tuple(float(values[count]) for count in counts)
    if min(shares) <= 0:
        raise ValueError("rates must be positive")
    return SharingRates(shares)


def _open_map(file: int, path: Path, digest: bytes) -> mmap.mmap:
    size = _HEAD.size + _ENTRY_COUNT * _ENTRY.itemsize
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        is_new = os.fstat(file).st_size == 0
        if is_new:
            os.ftruncate(file, size)
        elif os.fstat(file).st_size != size:
            raise ModelNotReady(f"{path} is no timed device of this version; delete it")
        mapped = mmap.mmap(file, size)
        if is_new:
            _HEAD.pack_into(mapped, 0, _MAGIC, digest, 0, time.monotonic(), 0.0)
        elif mapped[:16] != _MAGIC + digest:
            mapped.close()
            raise ModelNotReady(f"{path} is a device of other rates; delete it or name another")
        return mapped
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _start_time(pid: int) -> int | None:
    """Returns when a process started, in ticks since the machine did; None when it has ended."""
    try:
        # The name, in brackets, may hold anything; the state follows it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
