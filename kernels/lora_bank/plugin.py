"""The adapter bank as a plugin of TensorRT engines: adapters as inputs, no refit."""

from typing import Any

from ..compiling.plugins import (
    FLOATS,
    Plugin,
    PluginCall,
    PluginLaunch,
    blocks,
    constant,
    known,
    pointer_type,
)
from .op import BLOCK_IN, BLOCK_OUT, BLOCK_TOKENS, RANK_LIMIT, rank_block

# Columns of a program. TensorRT times each of them when it builds.
TACTICS = (256, 512, 1024)
_STAGES = 2
# Where 64 by 64 would not fit a plugin's shared memory: fp32 of more than 64 ranks.
_NARROW_BLOCK = 32
_WIDE_RANK_LIMIT = 64


def _describe(x: Any, y: Any, *_: Any) -> tuple[Any]:  # noqa: ARG001
    return (y.like(),)


def _combine(call: PluginCall) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:  # noqa: ARG001
    return [((*(kind,) * 4, "FP32", kind), TACTICS) for kind in FLOATS]


def _launch(call: PluginCall) -> PluginLaunch:
    from .kernel import lora_bank_fwd_kernel

    x, y, down = call.inputs[:3]
    rows, row_tokens, in_width = x.shape_expr
    out_width = y.shape_expr[2]
    rank = known(down.shape_expr[1], "the rank of lora_bank's adapters")
    if rank > RANK_LIMIT:
        raise ValueError(f"lora_bank takes up to {RANK_LIMIT} ranks, not {rank}")
    tile = {"BLOCK_TOKENS": BLOCK_TOKENS, "BLOCK_IN": BLOCK_IN, "BLOCK_OUT": BLOCK_OUT}
    if pointer_type(x.dtype) == "*fp32" and rank > _WIDE_RANK_LIMIT:
        tile = dict.fromkeys(tile, _NARROW_BLOCK)
    # No more columns than there are, where that is known.
    span = min(call.tactic, -(-(constant(out_width) or call.tactic) // BLOCK_OUT) * BLOCK_OUT)
    tokens = rows * row_tokens
    return PluginLaunch(
        kernel=lora_bank_fwd_kernel,
        constants=tile | {"BLOCK_RANK": rank_block(rank), "SPAN": span},
        sizes=(row_tokens, tokens, in_width, out_width, down.shape_expr[1]),
        grid=(blocks(tokens, tile["BLOCK_TOKENS"]), blocks(out_width, span)),
        stage_count=_STAGES,
    )


# `sangsang::LoraBank`: the tensors of `lora_bank`, scale `[rows, rank]` or `[rows, 1, rank]` as the
# fusing pass has it -> like y.
PLUGIN = Plugin(
    name="LoraBank",
    inputs=("x", "y", "down", "up", "scale"),
    describe=_describe,
    launch=_launch,
    combine=_combine,
)
