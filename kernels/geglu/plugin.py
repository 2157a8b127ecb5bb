"""GEGLU as a plugin of TensorRT engines."""

from typing import Any

from ..compiling.plugins import Plugin, PluginCall, PluginLaunch, blocks, product, same_type

# Columns of a program. TensorRT times each of them when it builds.
TACTICS = (512, 1024, 2048)
# Eight a thread: one 16-byte access in half precision.
_WARP_COLUMNS = 256


def _describe(x: Any) -> tuple[Any]:
    y = x.like()
    y.shape_expr[x.ndim - 1] = x.shape_expr[x.ndim - 1] // 2
    return (y,)


def _launch(call: PluginCall) -> PluginLaunch:
    from .kernel import geglu_fwd_kernel

    (y,) = call.outputs
    *rows, width = y.shape_expr
    return PluginLaunch(
        kernel=geglu_fwd_kernel,
        constants={"BLOCK": call.tactic},
        sizes=(width,),
        grid=(product(rows), blocks(width, call.tactic)),
        warp_count=call.tactic // _WARP_COLUMNS,
    )


# `sangsang::Geglu`: x `[..., 2 * width]` -> value * gelu(gate) `[..., width]`.
PLUGIN = Plugin(
    name="Geglu",
    inputs=("x",),
    describe=_describe,
    launch=_launch,
    combine=lambda _: same_type(2, TACTICS),
)
