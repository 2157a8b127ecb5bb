"""GEGLU as a plugin of TensorRT engines."""

# Only where the `tensorrt` package is installed; the types of its symbolic layer are loose.
# pyright: reportMissingImports=false

from typing import Any

from ..compiling import KernelVariant, compile_kernel
from ..compiling.plugins import (
    NAMESPACE,
    aligned_sizes,
    integers,
    launch_parameters,
    pointer_type,
)

PLUGIN_ID = f"{NAMESPACE}::Geglu"
# Columns of a program. TensorRT times each of them when it builds.
TACTICS = (512, 1024, 2048)
# Eight a thread: one 16-byte access in half precision.
_WARP_COLUMNS = 256


def register_plugin(architecture: int) -> None:
    """Makes `sangsang::Geglu` known to TensorRT, once in a process: x -> value * gelu(gate).

    Args:
        architecture: of the GPU that the engine is for, e.g. 89 for sm_89.

    Raises:
        ImportError: tensorrt or triton is not installed.
    """
    import tensorrt.plugin as layer

    # The layer reads these annotations.
    description = layer.TensorDesc
    compiled = tuple[str | bytes, str | bytes, layer.KernelLaunchParams, layer.SymExprs]

    def describe(x: description) -> description:  # pyright: ignore[reportInvalidTypeForm]
        y = x.like()
        y.shape_expr[x.ndim - 1] = x.shape_expr[x.ndim - 1] // 2
        return y

    def combine(x, outputs) -> list[layer.AutoTuneCombination]:  # noqa: ANN001, ARG001
        combination = layer.AutoTuneCombination()
        combination.pos([0, 1], "FP32|FP16|BF16")
        combination.tactics(list(TACTICS))
        return [combination]

    def compile_ahead(x, outputs, tactic: int) -> compiled:  # noqa: ANN001  # pyright: ignore[reportInvalidTypeForm]
        return _compile(x, outputs[0], tactic, architecture)

    layer.register(PLUGIN_ID)(describe)
    layer.autotune(PLUGIN_ID)(combine)
    layer.aot_impl(PLUGIN_ID)(compile_ahead)


def _compile(x: Any, y: Any, tactic: int, architecture: int) -> tuple[str, str, Any, Any]:
    import tensorrt.plugin as layer

    from .kernel import geglu_fwd_kernel

    pointer, last = pointer_type(x.dtype), x.ndim - 1
    width = y.shape_expr[last]
    variant = KernelVariant(
        geglu_fwd_kernel,
        {"p_x": pointer, "width": "i32", "p_y": pointer},
        {"BLOCK": tactic},
        ("p_x", "p_y", *aligned_sizes(width=width)),
        warp_count=tactic // _WARP_COLUMNS,
    )
    compiled = compile_kernel(variant, architecture)
    rows = layer.SymInt32(1)
    for axis in range(last):
        rows = rows * x.shape_expr[axis]
    launch = launch_parameters(compiled, rows, layer.cdiv(width, tactic))
    return compiled.name, compiled.ptx, launch, integers(width)
