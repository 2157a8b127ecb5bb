"""GroupNorm and SiLU as a plugin of TensorRT engines, for NCHW."""

from typing import Any

from ..compiling.plugins import Plugin, PluginCall, PluginLaunch, constant, product
from .op import STREAMED_BLOCK, STREAMED_WARPS, resident_blocks, resident_warps


def _describe(x: Any, *_: Any) -> tuple[Any]:
    return (x.like(),)


def _launch(call: PluginCall) -> PluginLaunch:
    batch, channels, *sides = call.inputs[0].shape_expr
    groups, epsilon = call.attributes["groups"], call.attributes["eps"]
    width, pixels = channels // groups, product(sides)
    variant = _variant(constant(width), constant(pixels))
    variant["constants"] |= {"GROUPS": groups, "EPSILON": epsilon}
    return PluginLaunch(sizes=(width, pixels), grid=(batch * groups,), **variant)


def _variant(width: int | None, pixels: int | None) -> dict[str, Any]:
    """Kernel, constants and warps: in registers if the group is known to fit them."""
    from .kernel import group_resident_fwd_kernel, group_streamed_fwd_kernel

    tile = resident_blocks(width, pixels) if width and pixels else None
    if tile is None:
        return {
            "kernel": group_streamed_fwd_kernel,
            "constants": {"BLOCK": STREAMED_BLOCK},
            "warp_count": STREAMED_WARPS,
        }
    return {
        "kernel": group_resident_fwd_kernel,
        "constants": {"BLOCK_CHANNELS": tile[0], "BLOCK_PIXELS": tile[1]},
        "warp_count": resident_warps(tile),
    }


# `sangsang::GroupNormSilu`: x `[batch, channels, ...]`, weight and bias `[channels]` -> like x. A
# plugin is one kernel, so a group that does not fit the registers is streamed by one program.
PLUGIN = Plugin(
    name="GroupNormSilu",
    inputs=("x", "weight", "bias"),
    attributes={"groups": int, "eps": float},
    describe=_describe,
    launch=_launch,
)
