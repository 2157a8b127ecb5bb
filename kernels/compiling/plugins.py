"""What the TensorRT plugins of all operations share: an operation says what it launches, once.

TensorRT 11 takes a kernel as PTX with symbolic launch parameters ("quickly deployable plugins",
ahead of time). Its arguments are the inputs, then 32-bit integers, then the outputs, which is the
order of every kernel here. Floats can only be compiled in. The plugin needs neither Python nor
triton when the engine runs.
"""

# Only where the `tensorrt` package is installed; the types of its symbolic layer are loose.
# pyright: reportMissingImports=false

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, Signature
from math import gcd
from typing import Any

from .ahead_of_time import CompiledKernel, KernelVariant, compile_kernel

NAMESPACE = "sangsang"
# As TensorRT spells the types that kernels read and write.
FLOATS = ("FP32", "FP16", "BF16")
# Dynamic shared memory that any launcher gives: for more, a kernel has to be prepared.
SHARED_LIMIT_BYTES = 48 * 1024

_ITEM_BYTES = {"FP32": 4, "FP16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class PluginCall:
    """What TensorRT asks a plugin about.

    Attributes:
        inputs: descriptions of the inputs, with symbolic sizes (`shape_expr`) and `dtype`.
        outputs: descriptions of the outputs.
        attributes: of the node, by name.
        tactic: which of the offered ways; 0 where none is offered, or it was not yet chosen.
    """

    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    attributes: Mapping[str, Any]
    tactic: int = 0


@dataclass(frozen=True, slots=True)
class PluginLaunch:
    """A kernel and how to launch it. Its pointers need no words: they follow from the tensors.

    Attributes:
        kernel: the `@triton.jit` function.
        constants: its compile-time arguments.
        sizes: its integer arguments in order, symbolic or numbers.
        grid: programs along each axis, symbolic, up to three.
        warp_count: warps of 32 threads in a program.
        stage_count: depth of the software pipeline.
        fuses_multiply_add: whether `a * b + c` may round once.
    """

    kernel: Any
    constants: Mapping[str, Any]
    sizes: tuple[Any, ...]
    grid: tuple[Any, ...]
    warp_count: int = 4
    stage_count: int = 3
    fuses_multiply_add: bool = True


@dataclass(frozen=True, slots=True)
class Plugin:
    """An operation as a node of TensorRT's graphs, `sangsang::<name>`.

    Attributes:
        name: of the node.
        inputs: their names, in the kernel's order.
        describe: returns a description of each output for those of the inputs, shapes symbolic.
        launch: returns what runs for a call.
        output_count: outputs of the node.
        attributes: the type of each attribute by its name, in the node's order.
        combine: returns for a call which types of inputs and outputs go together, in TensorRT's
            spelling, and the tactics to time for them; None takes whatever types the graph has,
            without tactics.
    """

    name: str
    inputs: tuple[str, ...]
    describe: Callable[..., tuple[Any, ...]]
    launch: Callable[[PluginCall], PluginLaunch]
    output_count: int = 1
    attributes: Mapping[str, type] = field(default_factory=dict[str, type])
    combine: Callable[[PluginCall], Iterable[tuple[tuple[str, ...], Iterable[int]]]] | None = None

    @property
    def id(self) -> str:
        """Its name with our namespace."""
        return f"{NAMESPACE}::{self.name}"

    def register(self, architecture: int) -> None:
        """Makes the node known to TensorRT, once in a process.

        Args:
            architecture: of the GPU that the engine is for, e.g. 89 for sm_89.

        Raises:
            ImportError: tensorrt or triton is not installed.
        """
        import tensorrt.plugin as layer

        _register_description(self, layer)
        if self.combine is not None:
            _register_combinations(self, layer)
        _register_kernel(self, layer, architecture)


def same_type(count: int, tactics: Iterable[int]) -> list[tuple[tuple[str, ...], Iterable[int]]]:
    """Returns combinations for tensors that are all of one type, each with the same tactics."""
    return [((kind,) * count, tactics) for kind in FLOATS]


def item_bytes(kind: str) -> int:
    """Returns the bytes of a value of a type in TensorRT's spelling, e.g. 2 for `FP16`."""
    return _ITEM_BYTES[kind]


def pointer_type(dtype: Any) -> str:
    """Returns Triton's name for a pointer to a TensorRT data type.

    Raises:
        ValueError: no kernel takes the type.
    """
    import tensorrt

    names = {
        tensorrt.float32: "*fp32",
        tensorrt.float16: "*fp16",
        tensorrt.bfloat16: "*bf16",
        tensorrt.int32: "*i32",
    }
    if dtype not in names:
        raise ValueError(f"no kernel takes {dtype}")
    return names[dtype]


def constant(size: Any) -> int | None:
    """Returns a symbolic size, or a number, if it is known when the engine is built, else None."""
    if isinstance(size, int):
        return size
    return size.constant_value() if size.is_constant else None


def known(size: Any, what: str) -> int:
    """Returns a symbolic size.

    Raises:
        ValueError: it is not known when the engine is built.
    """
    value = constant(size)
    if value is None:
        raise ValueError(f"{what} has to be known when the engine is built")
    return value


def product(sizes: Iterable[Any]) -> Any:
    """Returns the product of symbolic sizes, at least one of them.

    It starts with a size of a tensor: what starts with a number cannot be asked what it comes to.
    """
    first, *others = sizes
    for size in others:
        first = first * size
    return first


def blocks(size: Any, block: int) -> Any:
    """Returns how many blocks cover a size, symbolic or a number."""
    if isinstance(size, int):
        return -(-size // block)
    import tensorrt.plugin as layer

    return layer.cdiv(size, block)


def _register_description(plugin: Plugin, layer: Any) -> None:
    def describe(*inputs: Any, **attributes: Any) -> Any:  # noqa: ARG001
        outputs = plugin.describe(*inputs)
        return outputs if plugin.output_count > 1 else outputs[0]

    description = layer.TensorDesc
    parameters = [(name, description) for name in plugin.inputs]
    parameters += list(plugin.attributes.items())
    count = plugin.output_count
    returned = description if count == 1 else tuple[(description,) * count]
    layer.register(plugin.id)(_signed(describe, parameters, returned))


def _register_combinations(plugin: Plugin, layer: Any) -> None:
    def combine(*arguments: Any) -> Any:
        assert plugin.combine is not None
        return [
            layer.AutoTuneCombination(", ".join(types), "LINEAR", list(tactics))
            for types, tactics in plugin.combine(_call(plugin, *arguments))
        ]

    names = [*plugin.inputs, *plugin.attributes, "outputs"]
    parameters = [(name, Parameter.empty) for name in names]
    layer.autotune(plugin.id)(_signed(combine, parameters, list[layer.AutoTuneCombination]))


def _register_kernel(plugin: Plugin, layer: Any, architecture: int) -> None:
    def compile_ahead(*arguments: Any) -> Any:
        call = _call(plugin, *arguments)
        launch = plugin.launch(call)
        compiled = _compile(plugin, call, launch, architecture)
        parameters = layer.KernelLaunchParams(
            block_x=compiled.thread_count, shared_mem=compiled.shared_bytes
        )
        for axis, size in zip(("grid_x", "grid_y", "grid_z"), launch.grid, strict=False):
            setattr(parameters, axis, size)
        sizes = layer.SymIntExprs.from_tuple([layer.SymInt32(size) for size in launch.sizes])
        return compiled.name, compiled.ptx, parameters, sizes

    # All attributes and the tactic: the layer passes them all, in this order.
    names = [*plugin.inputs, *plugin.attributes, "outputs", "tactic"]
    parameters = [(name, Parameter.empty) for name in names]
    text = str | bytes
    returned = tuple[text, text, layer.KernelLaunchParams, layer.SymExprs]
    layer.aot_impl(plugin.id)(_signed(compile_ahead, parameters, returned))


def _signed(function: Any, parameters: list[tuple[str, Any]], returned: Any) -> Any:
    """Gives a function the signature that the layer reads: it knows tensors by their names."""
    kind = Parameter.POSITIONAL_OR_KEYWORD
    function.__signature__ = Signature(
        [Parameter(name, kind, annotation=annotation) for name, annotation in parameters],
        return_annotation=returned,
    )
    return function


def _call(plugin: Plugin, *arguments: Any) -> PluginCall:
    count = len(plugin.inputs)
    inputs, rest = arguments[:count], arguments[count:]
    given = zip(plugin.attributes.items(), rest, strict=False)
    attributes = {name: kind(value) for (name, kind), value in given}
    outputs, *tactic = rest[len(attributes) :]
    return PluginCall(inputs, tuple(outputs), attributes, *tactic)


def _compile(
    plugin: Plugin, call: PluginCall, launch: PluginLaunch, architecture: int
) -> CompiledKernel:
    inputs = [pointer_type(one.dtype) for one in call.inputs]
    outputs = [pointer_type(one.dtype) for one in call.outputs]
    kinds = [*inputs, *["i32"] * len(launch.sizes), *outputs]
    names = [name for name in launch.kernel.arg_names if name not in launch.constants]
    types = dict(zip(names, kinds, strict=True))
    # TensorRT's pointers are multiples of 256; of a size something is known only where it is.
    sizes = zip(names[len(inputs) :], launch.sizes, strict=False)
    compiled = compile_kernel(
        KernelVariant(
            kernel=launch.kernel,
            types=types,
            constants=launch.constants,
            aligned=tuple(name for name, kind in types.items() if kind != "i32"),
            divisors={name: n for name, size in sizes if (n := _divisor(constant(size))) > 1},
            warp_count=launch.warp_count,
            stage_count=launch.stage_count,
            fuses_multiply_add=launch.fuses_multiply_add,
        ),
        architecture,
    )
    if compiled.shared_bytes > SHARED_LIMIT_BYTES:
        needed = f"{compiled.shared_bytes} bytes of shared memory"
        raise ValueError(f"{plugin.id}: {needed}, and a plugin may have {SHARED_LIMIT_BYTES}")
    return compiled


def _divisor(size: int | None) -> int:
    """The largest power of two up to 16 that is known to divide a size."""
    return 1 if size is None else gcd(size, 16)
