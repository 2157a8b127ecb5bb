"""What a compiled kernel does to global memory, read from its PTX.

A load or store in the text is one instruction of each thread. In a kernel without loops the bytes
of all of them, times the threads, are exactly what one program moves.
"""

import re
from collections import Counter
from dataclasses import dataclass

_ACCESS = re.compile(
    r"\b(?P<kind>ld|st)\.(?:volatile\.)?global(?:\.[a-zA-Z]\w*(?:::\w+)?)*?"
    r"(?:\.v(?P<lanes>[248]))?\.(?:b|u|s|f)(?P<bits>8|16|32|64|128)\b"
)
_COPY = re.compile(
    r"\bcp\.async\.(?:ca|cg)\.shared\.global[\w.:]*\s*\[[^\]]*\],\s*\[[^\]]*\],\s*(?P<bytes>\w+)"
)
_ENTRY = re.compile(r"\.entry\s+(?P<name>\w+)\s*\((?P<arguments>[^)]*)\)")


@dataclass(frozen=True, slots=True)
class GlobalAccesses:
    """Accesses to global memory in the text of a kernel, per thread.

    Attributes:
        loads: how many there are of each width in bytes, asynchronous copies included.
        stores: the same for stores.
    """

    loads: Counter[int]
    stores: Counter[int]

    @property
    def load_bytes(self) -> int:
        """Bytes that the loads of a thread read."""
        return sum(width * count for width, count in self.loads.items())

    @property
    def store_bytes(self) -> int:
        """Bytes that the stores of a thread write."""
        return sum(width * count for width, count in self.stores.items())


def global_accesses(ptx: str) -> GlobalAccesses:
    """Returns the loads and stores of a kernel."""
    loads: Counter[int] = Counter()
    stores: Counter[int] = Counter()
    for access in _ACCESS.finditer(ptx):
        width = int(access["lanes"] or 1) * int(access["bits"]) // 8
        (loads if access["kind"] == "ld" else stores)[width] += 1
    for copy in _COPY.finditer(ptx):
        loads[int(copy["bytes"], 0)] += 1
    return GlobalAccesses(loads, stores)


def argument_count(ptx: str) -> int:
    """Returns how many arguments the entry of a kernel takes.

    Raises:
        ValueError: the text has no entry.
    """
    entry = _ENTRY.search(ptx)
    if entry is None:
        raise ValueError("no entry")
    return len([text for text in entry["arguments"].split(",") if text.strip()])
