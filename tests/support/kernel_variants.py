"""Every kernel as it is launched on a GPU, compiled there or here. Run: python -m, prints JSON.

A process of its own: what Triton's interpreter has wrapped, its compiler cannot take.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sangsang.kernels.compiling import (
    KernelVariant,
    argument_count,
    compile_kernel,
    global_accesses,
)

ARCHITECTURES = (80, 89, 90)
TYPES = ("fp32", "fp16", "bf16")
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


def _flat(kernel, type_, out=None, block=1024):
    types = {"p_x": f"*{type_}", "size": "i32", "p_y": f"*{out or type_}"}
    return KernelVariant(kernel, types, {"BLOCK": block}, tuple(types))


def variants() -> Iterator[tuple[str, str, KernelVariant]]:
    """Name, element type and variant of each kernel, aligned as in the networks it is for."""
    for type_ in TYPES:
        for name, variant in _of_type(type_):
            yield name, type_, variant


def _of_type(type_: str) -> Iterator[tuple[str, KernelVariant]]:
    from sangsang.kernels.cast import kernel as cast
    from sangsang.kernels.cast import op as cast_op
    from sangsang.kernels.geglu import kernel as geglu
    from sangsang.kernels.geglu import op as geglu_op
    from sangsang.kernels.gelu import kernel as gelu
    from sangsang.kernels.gelu import op as gelu_op
    from sangsang.kernels.silu import kernel as silu
    from sangsang.kernels.silu import op as silu_op

    types = {"p_x": f"*{type_}", "width": "i32", "p_y": f"*{type_}"}
    constants = {"BLOCK": geglu_op.BLOCK}
    yield "geglu", KernelVariant(geglu.geglu_fwd_kernel, types, constants, tuple(types))
    yield "gelu", _flat(gelu.gelu_fwd_kernel, type_, block=gelu_op.BLOCK)
    yield "silu", _flat(silu.silu_fwd_kernel, type_, block=silu_op.BLOCK)
    other = "fp16" if type_ == "fp32" else "fp32"
    yield f"cast_to_{other}", _flat(cast.cast_fwd_kernel, type_, other, cast_op.BLOCK)
    if type_ == "fp32":
        yield "cast_to_bf16", _flat(cast.cast_fwd_kernel, type_, "bf16", cast_op.BLOCK)


def _facts(name: str, type_: str, variant: KernelVariant, architecture: int) -> dict:
    compiled = compile_kernel(variant, architecture)
    accesses = global_accesses(compiled.ptx)
    return {
        "kernel": name,
        "type": type_,
        "architecture": architecture,
        "arguments": argument_count(compiled.ptx),
        "declared": len(variant.types),
        "loads": accesses.loads,
        "stores": accesses.stores,
        "load_bytes": accesses.load_bytes * compiled.thread_count,
        "store_bytes": accesses.store_bytes * compiled.thread_count,
        "shared_bytes": compiled.shared_bytes,
        "assembles": _assembles(compiled.ptx),
        "rounds_to_nearest": "cvt.rn" in compiled.ptx,
        "multiply_adds": compiled.ptx.count("fma.rn"),
    }


def _assembles(ptx: str) -> str:
    """What the assembler says of the PTX that TensorRT would get; nothing if it is content."""
    from triton import knobs

    target = next(line.split()[1] for line in ptx.splitlines() if line.startswith(".target"))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        command = [knobs.nvidia.ptxas.path, f"--gpu-name={target.rstrip(',')}", str(source)]
        command += ["-o", str(source.with_suffix(".cubin"))]
        done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout + done.stderr


if __name__ == "__main__":
    wanted = sys.argv[1:]
    facts = [
        _facts(*variant, architecture)
        for variant in variants()
        for architecture in ARCHITECTURES
        if not wanted or variant[0] in wanted
    ]
    print(json.dumps(facts))
