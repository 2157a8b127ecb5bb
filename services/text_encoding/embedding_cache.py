"""Keeps the embeddings of recent texts: the same prompt, and above all the same negative prompt,
comes again and again.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Embeddings: TypeAlias = NDArray[np.float32]
# Digest of the encoder, text. Not the model: two models often share their encoder.
CacheKey: TypeAlias = tuple[str, str]

# What an entry takes besides its array and text: key, objects, links. Measured, rounded up.
_ENTRY_OVERHEAD_BYTES = 1024


@dataclass(frozen=True, slots=True)
class EncodedText:
    """Embeddings of one text.

    Attributes:
        embeddings: [token_limit, width], f32, read-only.
        token_count: tokens that were encoded, padding excluded.
        dropped_token_count: tokens past the model's limit.
    """

    embeddings: Embeddings
    token_count: int
    dropped_token_count: int


class EmbeddingCache:
    """The least recently used go first. Safe to use from several threads.

    Args:
        entry_limit: texts to keep at most; 0 keeps none.
        byte_limit: bytes that they take at most.
    """

    def __init__(self, *, entry_limit: int, byte_limit: int) -> None:
        self._entry_limit = entry_limit
        self._byte_limit = byte_limit
        self._entries: OrderedDict[CacheKey, EncodedText] = OrderedDict()
        self._size_bytes = 0
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """Bytes that the entries take."""
        return self._size_bytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: CacheKey) -> EncodedText | None:
        """Returns what is kept under `key`, and keeps it longer; None when nothing is."""
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: CacheKey, value: EncodedText) -> None:
        """Keeps `value` under `key` unless it alone is larger than the limit."""
        size = _size_bytes(key, value)
        if size > self._byte_limit:
            return
        with self._lock:
            replaced = self._entries.pop(key, None)
            if replaced is not None:
                self._size_bytes -= _size_bytes(key, replaced)
            self._entries[key] = value
            self._size_bytes += size
            while self._size_bytes > self._byte_limit or len(self._entries) > self._entry_limit:
                dropped_key, dropped = self._entries.popitem(last=False)
                self._size_bytes -= _size_bytes(dropped_key, dropped)


def _size_bytes(key: CacheKey, value: EncodedText) -> int:
    # A text takes up to 4 bytes a character.
    return value.embeddings.nbytes + 4 * len(key[1]) + _ENTRY_OVERHEAD_BYTES
