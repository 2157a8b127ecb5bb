"""GroupNorm and SiLU as a plugin of TensorRT engines, for NCHW."""

# Only where the `tensorrt` package is installed; the types of its symbolic layer are loose.
# pyright: reportMissingImports=false

from typing import Any

from ..compiling import KernelVariant, compile_kernel
from ..compiling.plugins import (
    NAMESPACE,
    aligned_sizes,
    constant,
    integers,
    launch_parameters,
    pointer_type,
)
from .op import STREAMED_BLOCK, STREAMED_WARPS, resident_blocks, resident_warps

PLUGIN_ID = f"{NAMESPACE}::GroupNormSilu"


def register_plugin(architecture: int) -> None:
    """Makes `sangsang::GroupNormSilu` known to TensorRT, once in a process.

    Inputs x, weight, bias; attributes `groups` and `eps`. A plugin is one kernel, so a group that
    does not fit the registers is streamed by one program.

    Args:
        architecture: of the GPU that the engine is for, e.g. 89 for sm_89.

    Raises:
        ImportError: tensorrt or triton is not installed.
    """
    import tensorrt.plugin as layer

    # The layer reads these annotations.
    description = layer.TensorDesc
    compiled = tuple[str | bytes, str | bytes, layer.KernelLaunchParams, layer.SymExprs]

    def describe(
        x: description,  # pyright: ignore[reportInvalidTypeForm]
        weight: description,  # noqa: ARG001  # pyright: ignore[reportInvalidTypeForm]
        bias: description,  # noqa: ARG001  # pyright: ignore[reportInvalidTypeForm]
        groups: int,  # noqa: ARG001
        eps: float,  # noqa: ARG001
    ) -> description:  # pyright: ignore[reportInvalidTypeForm]
        return x.like()

    # All attributes, in the order of `describe`: the layer passes them all.
    def compile_ahead(x, weight, bias, groups: int, eps: float, outputs, tactic: int) -> compiled:  # noqa: ANN001, ARG001  # pyright: ignore[reportInvalidTypeForm]
        return _compile(x, weight, bias, int(groups), float(eps), architecture)

    layer.register(PLUGIN_ID)(describe)
    layer.aot_impl(PLUGIN_ID)(compile_ahead)


def _compile(
    x: Any, weight: Any, bias: Any, groups: int, epsilon: float, architecture: int
) -> tuple[str, str, Any, Any]:
    shape = x.shape_expr
    width, pixels = shape[1] // groups, shape[2]
    for axis in range(3, x.ndim):
        pixels = pixels * shape[axis]
    variant = _variant(constant(width), constant(pixels), groups, epsilon)
    types = {
        "p_x": pointer_type(x.dtype),
        "p_weight": pointer_type(weight.dtype),
        "p_bias": pointer_type(bias.dtype),
        "width": "i32",
        "pixels": "i32",
        "p_y": pointer_type(x.dtype),
    }
    pointers = tuple(name for name, kind in types.items() if kind != "i32")
    aligned = (*pointers, *aligned_sizes(width=width, pixels=pixels))
    compiled = compile_kernel(KernelVariant(types=types, aligned=aligned, **variant), architecture)
    launch = launch_parameters(compiled, shape[0] * groups)
    return compiled.name, compiled.ptx, launch, integers(width, pixels)


def _variant(width: int | None, pixels: int | None, groups: int, epsilon: float) -> dict[str, Any]:
    """Kernel, constants and warps: in registers if the group is known to fit them."""
    from .kernel import group_resident_fwd_kernel, group_streamed_fwd_kernel

    constants: dict[str, Any] = {"GROUPS": groups, "EPSILON": epsilon}
    blocks = resident_blocks(width, pixels) if width and pixels else None
    if blocks is None:
        constants |= {"BLOCK": STREAMED_BLOCK}
        warps, kernel = STREAMED_WARPS, group_streamed_fwd_kernel
    else:
        constants |= {"BLOCK_CHANNELS": blocks[0], "BLOCK_PIXELS": blocks[1]}
        warps, kernel = resident_warps(blocks), group_resident_fwd_kernel
    return {"kernel": kernel, "constants": constants, "warp_count": warps}
