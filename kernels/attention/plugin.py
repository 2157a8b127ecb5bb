"""Attention as a plugin of TensorRT engines: heads stay where the projections left them."""

import math
from collections.abc import Iterator
from typing import Any

from ..compiling.plugins import (
    FLOATS,
    SHARED_LIMIT_BYTES,
    Plugin,
    PluginCall,
    PluginLaunch,
    blocks,
    item_bytes,
    known,
)
from .op import DEPTH_LIMIT, WARPS, depth_blocks

# Queries and keys of a tile, and the depth of the software pipeline. A tactic is a place in this
# list, counted from 1; of those that fit, TensorRT times each when it builds.
TILES = ((64, 64, 2), (64, 64, 1), (64, 32, 2), (64, 32, 1), (32, 32, 1), (32, 16, 1))
# Twice the registers: as `tile_blocks` in op.py.
_MOST_FP32_QUERIES = 32


def fitting_tactics(depth: int, kind: str) -> list[int]:
    """Returns the tactics whose tiles of keys, values and queries fit a plugin's shared memory.

    Args:
        depth: values of a head.
        kind: type of the tensors, as TensorRT spells it.
    """
    row_bytes = sum(depth_blocks(depth)) * item_bytes(kind)
    found: list[int] = []
    for tactic, (queries, keys, stages) in enumerate(TILES, start=1):
        fits = (queries + 2 * stages * keys) * row_bytes <= SHARED_LIMIT_BYTES
        if fits and (kind != "FP32" or queries <= _MOST_FP32_QUERIES):
            found.append(tactic)
    return found


def _describe(query: Any, *_: Any) -> tuple[Any]:
    return (query.like(),)


def _combine(call: PluginCall) -> Iterator[tuple[tuple[str, ...], list[int]]]:
    for kind in FLOATS:
        if tactics := fitting_tactics(_depth(call), kind):
            yield (kind,) * 4, tactics


def _launch(call: PluginCall) -> PluginLaunch:
    from .kernel import attention_fwd_kernel

    query, key, value = call.inputs
    heads, depth = call.attributes["heads"], _depth(call)
    tile_queries, tile_keys, stages = TILES[call.tactic - 1]
    batch, queries, width = query.shape_expr
    main, rest = depth_blocks(depth)
    sizes = [heads, queries, key.shape_expr[1]]
    for x in (query, key, value):
        # Of a picture, a head and a token.
        sizes += [x.shape_expr[1] * width, depth, width]
    return PluginLaunch(
        kernel=attention_fwd_kernel,
        constants={
            "SCALE_LOG2": call.attributes["scale"] * math.log2(math.e),
            "DEPTH": depth,
            "BLOCK_QUERIES": tile_queries,
            "BLOCK_KEYS": tile_keys,
            "BLOCK_DEPTH": main,
            "BLOCK_REST": rest,
        },
        sizes=tuple(sizes),
        grid=(blocks(queries, tile_queries), batch * heads),
        warp_count=WARPS,
        stage_count=stages,
    )


def _depth(call: PluginCall) -> int:
    """Values of a head.

    Raises:
        ValueError: they are not known when the engine is built, uneven, or more than the kernel
            takes.
    """
    width = known(call.inputs[0].shape_expr[2], "attention's width")
    heads = call.attributes["heads"]
    if heads < 1 or width % heads or not 0 < width // heads <= DEPTH_LIMIT:
        raise ValueError(f"attention takes heads of 1 to {DEPTH_LIMIT}, not {width} in {heads}")
    return width // heads


# `sangsang::Attention`: query `[batch, queries, heads * depth]`, key and value
# `[batch, keys, heads * depth]` -> like query; attributes `heads` and `scale`.
PLUGIN = Plugin(
    name="Attention",
    inputs=("query", "key", "value"),
    attributes={"heads": int, "scale": float},
    describe=_describe,
    launch=_launch,
    combine=_combine,
)
