"""Every contender by name, as it is set for a kind of engine."""

import json
from collections.abc import Callable

from . import litserve_peer, triton_peer
from .contender import Contender
from .mesh import MeshContender

_EQUAL = json.dumps({"pro": 1.0, "free": 1.0})

_MAKERS: dict[str, Callable[[], Contender]] = {
    "mesh": MeshContender,
    "mesh-one-lane": lambda: MeshContender(
        "mesh-one-lane", "one lane for each device", {"SANGSANG_LANES_PER_DEVICE": "1"}
    ),
    "mesh-no-batching": lambda: MeshContender(
        "mesh-no-batching",
        "at most two rows in a step, which a guided picture takes alone",
        {"SANGSANG_BATCH_ROW_LIMIT": "2"},
    ),
    "mesh-no-tiers": lambda: MeshContender(
        "mesh-no-tiers", "both tiers weigh the same", {"SANGSANG_TIER_WEIGHTS": _EQUAL}
    ),
}
# Peers by the rows of a full batch.
_PEERS: dict[str, Callable[[int], Contender]] = {
    "triton-ensemble": triton_peer.ensemble,
    "triton-sequence": triton_peer.sequence,
    "litserve-continuous": litserve_peer.continuous,
    "litserve-batched": litserve_peer.batched,
}
# Rows of a batch where each does best on each kind of engine: README has what `run --tune` found.
_BEST_ROWS = {
    "timed": {
        "triton-ensemble": 16,
        "triton-sequence": 16,
        "litserve-continuous": 16,
        "litserve-batched": 8,
    },
    "cpu": dict.fromkeys(_PEERS, 8),
}


def contender(name: str, engines: str) -> Contender:
    """Returns a contender as it is best on `cpu` or `timed` engines, not yet started.

    `peer@rows` is a peer with another batch.
    """
    peer, _, rows = name.partition("@")
    if peer in _PEERS:
        return _PEERS[peer](int(rows or _BEST_ROWS[engines][peer]))
    return _MAKERS[name]()
