"""Every plugin as TensorRT would launch it. Run as a module with an architecture; prints JSON.

With `full` it is every depth of heads and every number of ranks, else one of each.
"""

import json
import sys
from dataclasses import asdict

import tensorrt_layer
from kernel_variants import _assembled

from sangsang.kernels.attention.plugin import PLUGIN as ATTENTION
from sangsang.kernels.compiling import argument_count, global_accesses
from sangsang.kernels.geglu.plugin import PLUGIN as GEGLU
from sangsang.kernels.group_norm_silu.plugin import PLUGIN as GROUP_NORM_SILU
from sangsang.kernels.guided_step.plugin import PLUGIN as GUIDED_STEP
from sangsang.kernels.lora_bank.plugin import PLUGIN as LORA_BANK

PLUGINS = (ATTENTION, GEGLU, GROUP_NORM_SILU, GUIDED_STEP, LORA_BANK)
NORM = {"groups": 32, "eps": 1e-5}


def cases(full):
    """Name, plugin, shapes of the inputs, attributes, and what is dynamic."""
    batch = {(0, 0)}
    yield "geglu", GEGLU, [(2, 4096, 2560)], {}, batch
    yield "geglu, dynamic width", GEGLU, [(2, 64, 2560)], {}, batch | {(0, 2)}
    for name, shape, dynamic in (
        ("group norm, resident", (2, 1280, 8, 8), batch),
        ("group norm, streamed", (2, 320, 64, 64), batch),
        ("group norm, dynamic size", (2, 1280, 8, 8), batch | {(0, 2), (0, 3)}),
    ):
        channels = (shape[1],)
        yield name, GROUP_NORM_SILU, [shape, channels, channels], NORM, dynamic
    for depth in (40, 64, 80, 160) if full else (40,):
        yield f"attention, {depth}", ATTENTION, *attention(depth)
    for history in (1, 2) if full else (2,):
        yield f"guided step, {history}", GUIDED_STEP, *guided_step(history)
    for rank in (4, 32, 128) if full else (128,):
        yield f"lora bank, {rank}", LORA_BANK, *lora_bank(rank)


def attention(depth):
    """SD 1.5's cross-attention: 8 heads, 77 tokens; rows and tokens counted only when it runs."""
    shapes = [(2, 8, 1024, depth), (2, 8, 77, depth), (2, 8, 77, depth)]
    dynamic = {(i, axis) for i in range(3) for axis in (0, 2)}
    return shapes, {"root_scale": depth**-0.25}, dynamic


def guided_step(history):
    """Eight pictures of two rows each."""
    picture = (4, 64, 64)
    shapes = [(16, *picture), (history, 8, *picture), (history - 1, 8, *picture), (8, *picture)]
    shapes += [(8, 2), (8, 3 + 2 * history)]
    return shapes, {}, {(0, 0), (1, 1), (2, 1), (3, 0), (4, 0), (5, 0)}


def lora_bank(rank):
    """A feed-forward layer of SD 1.5 at 64x64."""
    shapes = [(2, 4096, 320), (2, 4096, 2560), (320, rank), (rank, 2560), (2, 1, rank)]
    return shapes, {}, {(0, 0), (1, 0), (4, 0)}


def refused(tensorrt):
    """What each plugin that cannot serve a case says instead."""
    wide = [(2, 8, 64, 512)] * 3
    shapes, attributes, dynamic = attention(40)
    bank, _, batch = lora_bank(32)
    half = tensorrt.float16
    for name, plugin, these, given, unknown in (
        ("attention, dynamic depth", ATTENTION, shapes, attributes, dynamic | {(0, 3)}),
        ("attention, wide heads", ATTENTION, wide, attributes, dynamic),
        ("guided step, dynamic history", GUIDED_STEP, *guided_step(2)[:2], {(1, 0)}),
        ("lora bank, dynamic rank", LORA_BANK, bank, {}, batch | {(2, 1)}),
        ("lora bank, 129 ranks", LORA_BANK, *lora_bank(129)),
        ("group norm, int8", GROUP_NORM_SILU, [(2, 64, 8, 8), (64,), (64,)], NORM, set()),
    ):
        types = [tensorrt.int8 if "int8" in name else half] * len(these)
        try:
            list(tensorrt_layer.launches(plugin.id, these, types, given, unknown))
            yield name, "no error"
        except ValueError as error:
            yield name, str(error)


def main() -> None:
    tensorrt = tensorrt_layer.install()
    architecture = int(sys.argv[1])
    for plugin in PLUGINS:
        plugin.register(architecture)
    found = []
    for name, plugin, shapes, attributes, dynamic in cases("full" in sys.argv):
        dtypes = [tensorrt.float16, *[tensorrt.float32] * (len(shapes) - 1)]
        if plugin is not GUIDED_STEP:
            dtypes = [tensorrt.float16] * len(shapes)
        for launch in tensorrt_layer.launches(plugin.id, shapes, dtypes, attributes, dynamic):
            facts = asdict(launch) | {"case": name, "assembler_says": _assembled(launch.ptx)}
            accesses = global_accesses(facts.pop("ptx"))
            facts |= {"loads": accesses.loads, "stores": accesses.stores}
            facts |= {"version": launch.ptx.split(".version")[1].split()[0]}
            facts |= {"fuses_multiply_add": "fma.rn" in launch.ptx}
            found.append(facts | {"arguments": argument_count(launch.ptx)})
    print(json.dumps({"launches": found, "refused": dict(refused(tensorrt))}))


if __name__ == "__main__":
    main()
