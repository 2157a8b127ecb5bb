"""What the TensorRT plugins of all operations share: types, alignment, launch.

TensorRT 11 takes a kernel as PTX with symbolic launch parameters ("quickly deployable plugins",
ahead of time). Its arguments are the inputs, then 32-bit integers, then the outputs, which is the
order of every kernel here. Floats can only be compiled in. The plugin needs neither Python nor
triton when the engine runs.
"""

# Only where the `tensorrt` package is installed; the types of its symbolic layer are loose.
# pyright: reportMissingImports=false

from typing import Any

from .ahead_of_time import CompiledKernel

NAMESPACE = "sangsang"


def pointer_type(dtype: Any) -> str:
    """Returns Triton's name for a pointer to a TensorRT data type.

    Raises:
        ValueError: no kernel takes the type.
    """
    import tensorrt

    names = {tensorrt.float32: "*fp32", tensorrt.float16: "*fp16", tensorrt.bfloat16: "*bf16"}
    if dtype not in names:
        raise ValueError(f"no kernel takes {dtype}")
    return names[dtype]


def constant(size: Any) -> int | None:
    """Returns a symbolic size if it is known when the engine is built, else None."""
    return size.constant_value() if size.is_constant else None


def aligned_sizes(**sizes: Any) -> tuple[str, ...]:
    """Returns the names of the sizes that are known to be multiples of 16."""
    return tuple(name for name, size in sizes.items() if (constant(size) or 1) % 16 == 0)


def launch_parameters(compiled: CompiledKernel, *grid: Any) -> Any:
    """Returns TensorRT's launch parameters.

    Args:
        compiled: the kernel.
        grid: programs along each axis, symbolic, up to three.
    """
    import tensorrt.plugin as layer

    parameters = layer.KernelLaunchParams(
        block_x=compiled.thread_count, shared_mem=compiled.shared_bytes
    )
    for axis, size in zip(("grid_x", "grid_y", "grid_z"), grid, strict=False):
        setattr(parameters, axis, size)
    return parameters


def integers(*sizes: Any) -> Any:
    """Returns the kernel's 32-bit integer arguments."""
    import tensorrt.plugin as layer

    return layer.SymIntExprs.from_tuple([layer.SymInt32(size) for size in sizes])
