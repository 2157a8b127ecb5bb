"""Every kernel as it is launched on a GPU, compiled there or here. Run as a module; prints JSON.

A process of its own: what Triton's interpreter has wrapped, its compiler cannot take.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from sangsang.kernels.compiling import (
    KernelVariant,
    argument_count,
    compile_kernel,
    global_accesses,
)

ARCHITECTURES = (80, 89, 90)
# Ten seconds, because products in fp32 are unrolled.
SLOWEST = ("attention_160", "fp32")
TYPES = ("fp32", "fp16", "bf16")
STRIDES = ("batch_stride", "head_stride", "stride")


def variants() -> Iterator[tuple[str, str, KernelVariant]]:
    """Name, element type and variant of each kernel, aligned as in the networks it is for."""
    for type_ in TYPES:
        for family in (_elementwise, _rows, _group_norm, _products, _guided_step):
            for name, variant in family(f"*{type_}"):
                yield name, type_, variant


def _variant(kernel, types, constants, narrow=(), **options) -> KernelVariant:
    """A variant whose arguments are all multiples of 16, but for the narrow ones."""
    aligned = tuple(name for name in types if name not in narrow)
    return KernelVariant(kernel, types, constants, aligned, **options)


def _elementwise(type_: str) -> Iterator[tuple[str, KernelVariant]]:
    from sangsang.kernels.cast import kernel as cast
    from sangsang.kernels.cast import op as cast_op
    from sangsang.kernels.geglu import kernel as geglu
    from sangsang.kernels.geglu import op as geglu_op
    from sangsang.kernels.gelu import kernel as gelu
    from sangsang.kernels.gelu import op as gelu_op
    from sangsang.kernels.silu import kernel as silu
    from sangsang.kernels.silu import op as silu_op

    types = {"p_x": type_, "width": "i32", "p_y": type_}
    yield "geglu", _variant(geglu.geglu_fwd_kernel, types, {"BLOCK": geglu_op.BLOCK})
    # What a launch without any hint would be: shows what the hints are for.
    unhinted = {"narrow": tuple(types)}
    yield (
        "geglu_unhinted",
        _variant(geglu.geglu_fwd_kernel, types, {"BLOCK": geglu_op.BLOCK}, **unhinted),
    )
    types = {"p_x": type_, "size": "i32", "p_y": type_}
    yield "gelu", _variant(gelu.gelu_fwd_kernel, types, {"BLOCK": gelu_op.BLOCK})
    yield "silu", _variant(silu.silu_fwd_kernel, types, {"BLOCK": silu_op.BLOCK})
    for other in TYPES:
        if type_ != f"*{other}":
            types = {"p_x": type_, "size": "i32", "p_y": f"*{other}"}
            variant = _variant(cast.cast_fwd_kernel, types, {"BLOCK": cast_op.BLOCK})
            yield f"cast_to_{other}", variant


def _rows(type_: str) -> Iterator[tuple[str, KernelVariant]]:
    """Rows of 1024, so that the block has no lane to spare and bytes can be compared exactly."""
    from sangsang.kernels.dispatch import row_warps
    from sangsang.kernels.layer_norm import kernel as layer_norm
    from sangsang.kernels.softmax import kernel as softmax

    warps = {"warp_count": row_warps(1024)}
    types = {"p_x": type_, "p_weight": type_, "p_bias": type_, "width": "i32", "p_y": type_}
    constants = {"EPSILON": 1e-5, "BLOCK": 1024}
    yield "layer_norm", _variant(layer_norm.layer_norm_fwd_kernel, types, constants, **warps)
    types = {"p_x": type_, "width": "i32", "p_y": type_}
    yield "softmax", _variant(softmax.softmax_fwd_kernel, types, {"BLOCK": 1024}, **warps)


def _group_norm(type_: str) -> Iterator[tuple[str, KernelVariant]]:
    from sangsang.kernels.group_norm_silu import kernel, op

    sizes = {"width": "i32", "pixels": "i32"}
    types = {"p_x": type_, "p_weight": type_, "p_bias": type_, **sizes, "p_y": type_}
    constants = {"GROUPS": 32, "EPSILON": 1e-5}
    blocks = {"BLOCK_CHANNELS": 64, "BLOCK_PIXELS": 64}
    warps = {"warp_count": op.resident_warps((64, 64))}
    yield (
        "group_resident",
        _variant(kernel.group_resident_fwd_kernel, types, constants | blocks, ("width",), **warps),
    )
    block, warps = {"BLOCK": op.STREAMED_BLOCK}, {"warp_count": op.STREAMED_WARPS}
    yield (
        "group_streamed",
        _variant(kernel.group_streamed_fwd_kernel, types, constants | block, ("width",), **warps),
    )
    blocks = {"BLOCK_PIXELS": op.BLOCK_PIXELS, "BLOCK_CHANNELS": op.BLOCK_CHANNELS}
    warps = {"warp_count": op.PIXEL_WARPS}
    sizes = {"channels": "i32", "pixels": "i32"}
    types = {"p_x": type_, **sizes, "p_moments": "*fp32"}
    yield "pixel_moments", _variant(kernel.pixel_moments_kernel, types, blocks, **warps)
    types = {"p_x": type_, "p_affine": "*fp32", "p_bias": type_, **sizes, "p_y": type_}
    yield "pixel_apply", _variant(kernel.pixel_apply_kernel, types, blocks, **warps)
    types = {"p_moments": "*fp32", "p_weight": type_, **sizes, "blocks": "i32", "p_affine": "*fp32"}
    blocks = {"BLOCK_ROWS": op.FOLD_ROWS, "BLOCK_CHANNELS": 16}
    blocks["PIXELS_PER_BLOCK"] = op.BLOCK_PIXELS
    yield (
        "fold_moments",
        _variant(kernel.fold_moments_kernel, types, constants | blocks, ("blocks",)),
    )


def _products(type_: str) -> Iterator[tuple[str, KernelVariant]]:
    from sangsang.kernels.attention import kernel as attention
    from sangsang.kernels.attention import op as attention_op
    from sangsang.kernels.lora_bank import kernel as lora_bank
    from sangsang.kernels.lora_bank import op as lora_op

    types = dict.fromkeys(("p_x", "p_y", "p_down", "p_up"), type_) | {"p_scale": "*fp32"}
    sizes = ("row_tokens", "tokens", "in_width", "out_width", "rank")
    types |= dict.fromkeys(sizes, "i32") | {"p_out": type_}
    constants = {name: getattr(lora_op, name) for name in ("BLOCK_TOKENS", "BLOCK_IN", "BLOCK_OUT")}
    constants |= {"BLOCK_RANK": 32, "SPAN": lora_op.SPAN}
    yield "lora_bank", _variant(lora_bank.lora_bank_fwd_kernel, types, constants)

    strides = [f"{x}_{kind}" for x in ("query", "key", "value") for kind in STRIDES]
    sizes = ("heads", "queries", "keys", *strides)
    types = dict.fromkeys(("p_query", "p_key", "p_value"), type_)
    types |= dict.fromkeys(sizes, "i32") | {"p_out": type_}
    dtype = {"*fp32": torch.float32, "*fp16": torch.float16, "*bf16": torch.bfloat16}[type_]
    queries, keys = attention_op.tile_blocks(dtype)
    options = {"warp_count": attention_op.WARPS, "stage_count": attention_op.STAGES}
    for depth in (40, 64, 80, 160):
        main, rest = attention_op.depth_blocks(depth)
        constants = {"SCALE_LOG2": 0.2, "DEPTH": depth, "BLOCK_QUERIES": queries}
        constants |= {"BLOCK_KEYS": keys, "BLOCK_DEPTH": main, "BLOCK_REST": rest}
        constants["UNIT"], numbers = attention_numbers(depth)
        # As Triton's launcher decides: what is no multiple of 16 goes without a hint.
        narrow = tuple(n for n, x in zip(sizes, numbers, strict=True) if x % 16 != 0)
        variant = _variant(attention.attention_fwd_kernel, types, constants, narrow, **options)
        yield f"attention_{depth}", variant


def attention_numbers(depth: int) -> tuple[int, tuple[int, ...]]:
    """UNIT and the integers of a launch on 8 heads where projections leave them, over 77 tokens.

    So the torch backend calls it (`fused_modules.py`): heads lie beside each other in a token.
    """
    from sangsang.kernels.attention.op import launch_strides

    query, key = (
        torch.empty(2, tokens, 8 * depth, device="meta").unflatten(-1, (8, -1)).transpose(1, 2)
        for tokens in (4096, 77)
    )
    unit, strides = launch_strides(query, key, key)
    return unit, (8, 4096, 77, *strides)


def _guided_step(type_: str) -> Iterator[tuple[str, KernelVariant]]:
    from sangsang.kernels.guided_step import kernel, op

    fp32 = ("p_latents", "p_past", "p_noise", "p_rows", "p_coefficients")
    types = {"p_outputs": type_} | dict.fromkeys(fp32, "*fp32") | {"p_rows": "*i32"}
    types |= {"pictures": "i32", "size": "i32", "p_next": "*fp32", "p_guided": "*fp32"}
    for history in (1, 2):
        constants = {"HISTORY": history, "HAS_NOISE": True, "BLOCK": op.BLOCK}
        options = {"narrow": ("pictures",), "fuses_multiply_add": False}
        variant = _variant(kernel.guided_step_fwd_kernel, types, constants, **options)
        yield f"guided_step_{history}", variant


def _facts(name: str, type_: str, variant: KernelVariant, architecture: int) -> dict:
    compiled = compile_kernel(variant, architecture)
    accesses = global_accesses(compiled.ptx)
    return {
        "kernel": name,
        "type": type_,
        "architecture": architecture,
        "arguments": argument_count(compiled.ptx),
        "declared": len(variant.types),
        "thread_count": compiled.thread_count,
        "loads": accesses.loads,
        "stores": accesses.stores,
        "shared_bytes": compiled.shared_bytes,
        "assembler_says": _assembled(compiled.ptx),
        "rounds_to_nearest": "cvt.rn." in compiled.ptx,
        "fuses_multiply_add": "fma.rn" in compiled.ptx,
    }


def _assembled(ptx: str) -> str:
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


def _wanted(full: bool) -> Iterator[tuple[str, str, KernelVariant, int]]:
    """Everything; or all kernels and types for the oldest, and half precision for the others."""
    for name, type_, variant in variants():
        slow = name in ("attention_64", "attention_80") or (name, type_) == SLOWEST
        for architecture in ARCHITECTURES:
            oldest = architecture == ARCHITECTURES[0]
            if full or (not slow and (oldest or type_ == "fp16")):
                yield name, type_, variant, architecture


if __name__ == "__main__":
    print(json.dumps([_facts(*one) for one in _wanted("full" in sys.argv)]))
