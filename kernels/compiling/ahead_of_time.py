"""Triton kernels to PTX with no GPU and no driver, in the form that TensorRT's plugins take.

Three things differ from a launch by Triton itself. Its launcher knows which arguments are
multiples of 16 and compiles for that; here the caller says so. It appends two pointers to scratch
memory to every signature; TensorRT passes the declared arguments only, so they are taken out. And
it writes PTX of its own assembler's version, which an older driver refuses; here the version is
the oldest that knows the target.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Since CUDA 12.0 drivers take PTX 8.0; Blackwell exists in PTX since 8.7. LLVM ends the process,
# with no exception to catch, when the version is too old for the target.
_PTX_VERSION = 80
_PTX_VERSION_BLACKWELL = 87
_BLACKWELL = 100
_ALIGNED = 16
_SCRATCH_POINTERS = 2


@dataclass(frozen=True, slots=True)
class KernelVariant:
    """One way to compile a kernel.

    Attributes:
        kernel: the `@triton.jit` function.
        types: of its arguments in order, as Triton spells them: `*fp16`, `i32`.
        constants: its compile-time arguments.
        aligned: arguments that are multiples of 16: pointers of whole tensors always, sizes when
            they are known to be. Without them every access is of one element.
        divisors: powers of two below 16 that divide other arguments: 8 is enough for accesses of
            16 bytes in half precision. Triton's own launcher looks for 16 only.
        warp_count: warps of 32 threads in a program.
        stage_count: depth of the software pipeline.
        fuses_multiply_add: whether `a * b + c` may round once.
    """

    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    aligned: tuple[str, ...] = ()
    divisors: Mapping[str, int] = field(default_factory=dict[str, int])
    warp_count: int = 4
    stage_count: int = 3
    fuses_multiply_add: bool = True


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """A kernel for one GPU architecture.

    Attributes:
        name: its entry point.
        ptx: text with the declared arguments only.
        thread_count: threads of a program.
        shared_bytes: dynamic shared memory of a program.
    """

    name: str
    ptx: str
    thread_count: int
    shared_bytes: int


def compile_kernel(variant: KernelVariant, architecture: int) -> CompiledKernel:
    """Returns a kernel compiled for a GPU architecture, e.g. 89 for sm_89.

    Raises:
        ValueError: the kernel needs scratch memory, which TensorRT would not give it.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = variant.kernel.arg_names
    divisors = dict.fromkeys(variant.aligned, _ALIGNED) | dict(variant.divisors)
    source = ASTSource(
        fn=variant.kernel,
        signature={name: variant.types.get(name, "constexpr") for name in names},
        constexprs=dict(variant.constants),
        attrs={(names.index(name),): [["tt.divisibility", n]] for name, n in divisors.items()},
    )
    options = {
        "num_warps": variant.warp_count,
        "num_stages": variant.stage_count,
        "enable_fp_fusion": variant.fuses_multiply_add,
        "ptx_version": _PTX_VERSION if architecture < _BLACKWELL else _PTX_VERSION_BLACKWELL,
    }
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    facts = compiled.metadata
    if facts.global_scratch_size or facts.profile_scratch_size:
        raise ValueError(f"{facts.name} needs scratch memory")
    ptx = without_scratch(compiled.asm["ptx"], facts.name, len(variant.types))
    return CompiledKernel(facts.name, ptx, facts.num_warps * 32, facts.shared)


def without_scratch(ptx: str, name: str, argument_count: int) -> str:
    """Returns PTX whose entry takes its declared arguments only.

    Args:
        ptx: with up to two more pointers at the end of the entry's arguments.
        name: of the entry.
        argument_count: arguments that the kernel declares.

    Raises:
        ValueError: there is no such entry, or the kernel uses what would be taken out.
    """
    entry = re.search(rf"(\.entry\s+{re.escape(name)}\s*\()([^)]*)\)", ptx)
    if entry is None:
        raise ValueError(f"no entry {name}")
    arguments = [text.strip() for text in entry[2].split(",") if text.strip()]
    extra = arguments[argument_count:]
    if len(arguments) < argument_count or len(extra) > _SCRATCH_POINTERS:
        raise ValueError(f"{name} has {len(arguments)} arguments, {argument_count} were declared")
    for argument in extra:
        label = argument.split()[-1]
        if len(re.findall(rf"\b{re.escape(label)}\b", ptx)) > 1:
            raise ValueError(f"{name} uses {label}")
    declared = "\n\t" + ",\n\t".join(arguments[:argument_count]) + "\n"
    return ptx[: entry.start(2)] + declared + ptx[entry.end(2) :]
