"""Every contender by name, as it is set for a kind of engine."""

import json
from collections.abc import Callable

from . import litserve_peer, triton_peer
from .contender import Contender
from .mesh import MeshContender

_EQUAL = json.dumps({"pro": 1.0, "free": 1.0})

# By the rows of a full batch.
_TUNED: dict[str, Callable[[int], Contender]] = {
    "mesh": lambda rows: _mesh(rows),
    "mesh-one-lane": lambda rows: _mesh(
        rows, "mesh-one-lane", "one lane for each device", SANGSANG_LANES_PER_DEVICE="1"
    ),
    "mesh-no-tiers": lambda rows: _mesh(
        rows, "mesh-no-tiers", "both tiers weigh the same", SANGSANG_TIER_WEIGHTS=_EQUAL
    ),
    # What a guided picture takes alone.
    "mesh-no-batching": lambda _: _mesh(2, "mesh-no-batching"),
    "triton-ensemble": triton_peer.ensemble,
    "triton-sequence": triton_peer.sequence,
    "litserve-continuous": litserve_peer.continuous,
    "litserve-batched": litserve_peer.batched,
}
# Rows of a batch where each does best on each kind of engine: README has what `run --tune` found.
_BEST_ROWS = {"timed": 16, "cpu": 8}
_EXCEPTIONS = {("timed", "litserve-batched"): 8}


def contender(name: str, engines: str) -> Contender:
    """Returns a contender as it is best on `cpu` or `timed` engines, not yet started.

    `name@rows` has another batch.
    """
    bare, _, rows = name.partition("@")
    best = _EXCEPTIONS.get((engines, bare), _BEST_ROWS[engines])
    return _TUNED[bare](int(rows or best))


def _mesh(
    rows: int, name: str = "mesh", what: str = "default settings", **settings: str
) -> MeshContender:
    settings["SANGSANG_BATCH_ROW_LIMIT"] = str(rows)
    return MeshContender(name, f"{what}, at most {rows} rows in a step", settings)
