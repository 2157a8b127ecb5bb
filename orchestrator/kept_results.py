"""Results that wait for a caller who asks again: bounded in time, in number and in bytes.

One object without I/O: whoever calls it says what time it is.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from .generation import GenerationResult

# What a result takes besides its pictures: plan, times, objects. Generous.
_OVERHEAD_BYTES = 8192


@dataclass(frozen=True, slots=True)
class KeepLimits:
    """How much is kept; 0 of any keeps nothing.

    Attributes:
        duration_s: how long.
        max_count: results.
        max_bytes: of their pictures and initial images.
    """

    duration_s: float = 300.0
    max_count: int = 1000
    max_bytes: int = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Kept:
    result: GenerationResult
    byte_count: int
    kept_s: float


class KeptResults:
    """Results by the key of their request; the oldest goes first.

    Attributes:
        byte_count: what they take.
    """

    def __init__(self, limits: KeepLimits) -> None:
        self._limits = limits
        # In the order in which they came, so that the old ones are at the front.
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self.byte_count = 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: Hashable, result: GenerationResult, now_s: float) -> None:
        """Keeps a result if it fits; older ones make room for it."""
        self._forget(key)
        size = _size(result)
        limits = self._limits
        if size > limits.max_bytes or limits.max_count < 1 or limits.duration_s <= 0:
            return
        self._kept[key] = _Kept(result, size, now_s)
        self.byte_count += size
        while len(self._kept) > limits.max_count or self.byte_count > limits.max_bytes:
            self._forget(next(iter(self._kept)))

    def get(self, key: Hashable, now_s: float) -> GenerationResult | None:
        """Returns the result of a request; None if it is not kept, or not any more."""
        while self._kept:
            oldest = next(iter(self._kept))
            if now_s - self._kept[oldest].kept_s < self._limits.duration_s:
                break
            self._forget(oldest)
        kept = self._kept.get(key)
        return None if kept is None else kept.result

    def _forget(self, key: Hashable) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.byte_count -= kept.byte_count


def _size(result: GenerationResult) -> int:
    pictures = sum(len(picture.image.content) for picture in result.pictures)
    return _OVERHEAD_BYTES + len(result.plan.initial_image) + pictures
