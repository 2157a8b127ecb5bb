"""The numbers of `torch.randn` with a CPU generator, without torch.

A seed must give the same picture here as in diffusers, and serving must not need torch. torch
draws from a Mersenne Twister, keeps 24 bits of each output, and turns blocks of 16 uniform numbers
into 16 normal ones by Box-Muller. Its vectorised logarithm and cosine differ from numpy's in the
last bits: results agree within 5e-7 (tests/unit/test_noise.py).

Source: torch 2.13, aten/src/ATen/native/cpu/DistributionTemplates.h, `normal_fill`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Noise = NDArray[np.float32]

MAX_SEED = 2**63 - 1
# Below this many elements torch draws one by one, from doubles; no latents are that small.
MIN_ELEMENT_COUNT = 16

_BLOCK = 16
_HALF = _BLOCK // 2
_MANTISSA_MASK = np.uint32((1 << 24) - 1)


class TorchGenerator:
    """A generator that draws what `torch.Generator("cpu").manual_seed(seed)` draws.

    Successive draws continue its state, as they do in torch.

    Args:
        seed: 0 to `MAX_SEED`; like torch, it counts modulo 2**32.

    Raises:
        ValueError: the seed is out of range.
    """

    def __init__(self, seed: int) -> None:
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed must be 0 to 2**63 - 1, got {seed}")
        self._twister = np.random.RandomState(seed & 0xFFFFFFFF)

    def randn(self, shape: Sequence[int]) -> Noise:
        """Returns standard normal numbers of this shape, f32.

        Raises:
            ValueError: fewer than `MIN_ELEMENT_COUNT` elements.
        """
        count = _element_count(shape)
        uniform = self._uniform(count)
        whole = count - count % _BLOCK
        normal = np.empty(count, np.float32)
        normal[:whole] = _box_muller(uniform[:whole])
        if whole < count:
            # torch draws the last 16 again, overlapping what it has filled.
            normal[-_BLOCK:] = _box_muller(self._uniform(_BLOCK))
        return normal.reshape(tuple(shape))

    def skip(self, draw_count: int, shape: Sequence[int]) -> None:
        """Moves on as `draw_count` draws of this shape would.

        Raises:
            ValueError: fewer than `MIN_ELEMENT_COUNT` elements.
        """
        count = _element_count(shape)
        for _ in range(draw_count):
            self._uniform(count + (_BLOCK if count % _BLOCK else 0))

    def _uniform(self, count: int) -> Noise:
        """Returns `[count]` numbers in [0, 1), multiples of 2**-24."""
        bits: NDArray[Any] = self._twister.randint(0, 2**32, count, np.uint32)
        return (bits & _MANTISSA_MASK).astype(np.float32) * np.float32(2**-24)


def _element_count(shape: Sequence[int]) -> int:
    count = int(np.prod(shape, dtype=np.int64))
    if count < MIN_ELEMENT_COUNT:
        raise ValueError(f"shape {tuple(shape)} has fewer than {MIN_ELEMENT_COUNT} elements")
    return count


def _box_muller(uniform: Noise) -> Noise:
    """Returns `[n]` normal numbers of `[n]` uniform ones, block of 16 by block of 16."""
    blocks = uniform.reshape(-1, _BLOCK)
    # 1 - u lies in (0, 1]: its logarithm is finite.
    radius = np.sqrt(-2 * np.log(1 - blocks[:, :_HALF]))
    angle = np.float32(2 * np.pi) * blocks[:, _HALF:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()
