"""Attention without a mask as a plugin of TensorRT engines."""

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
from .op import DEPTH_LIMIT, WARPS, depth_blocks, stride_unit

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

    query, key, _ = call.inputs
    batch, heads, queries, _ = query.shape_expr
    keys, depth = key.shape_expr[2], _depth(call)
    tile_queries, tile_keys, stages = TILES[call.tactic - 1]
    main, rest = depth_blocks(depth)
    # Every head is a picture of one head: so the result lies head by head too, as the node says.
    unit = stride_unit(depth)
    width = depth // unit
    strides = [size for count in (queries, keys, keys) for size in (count * width, width, width)]
    return PluginLaunch(
        kernel=attention_fwd_kernel,
        constants={
            "UNIT": unit,
            "SCALE_LOG2": call.attributes["root_scale"] ** 2 * math.log2(math.e),
            "DEPTH": depth,
            "BLOCK_QUERIES": tile_queries,
            "BLOCK_KEYS": tile_keys,
            "BLOCK_DEPTH": main,
            "BLOCK_REST": rest,
        },
        sizes=(1, queries, keys, *strides),
        grid=(blocks(queries, tile_queries), batch * heads),
        warp_count=WARPS,
        stage_count=stages,
    )


def _depth(call: PluginCall) -> int:
    """Values of a head.

    Raises:
        ValueError: they are not known when the engine is built, or more than the kernel takes.
    """
    depth = known(call.inputs[0].shape_expr[3], "the depth of attention's heads")
    if depth > DEPTH_LIMIT:
        raise ValueError(f"attention takes heads of up to {DEPTH_LIMIT} values, not {depth}")
    return depth


# `sangsang::ScaledAttention`: query `[batch, heads, queries, depth]`, key and value
# `[batch, heads, keys, depth]` -> like query; `root_scale` is the square root of the scale.
PLUGIN = Plugin(
    name="ScaledAttention",
    inputs=("query", "key", "value"),
    attributes={"root_scale": float},
    describe=_describe,
    launch=_launch,
    combine=_combine,
)
