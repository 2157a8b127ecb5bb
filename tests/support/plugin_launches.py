"""Every plugin as TensorRT would launch it. Run as a module with an architecture; prints JSON."""

import json
import sys
from dataclasses import asdict

import tensorrt_layer
from kernel_variants import _assembled

from sangsang.kernels.compiling import argument_count, global_accesses
from sangsang.kernels.geglu import plugin as geglu
from sangsang.kernels.group_norm_silu import plugin as group_norm_silu

NORM = {"groups": 32, "eps": 1e-5}


def cases():
    """Name, plugin, shapes of the inputs, attributes, and what is dynamic."""
    batch = {(0, 0)}
    yield "geglu", geglu.PLUGIN_ID, [(2, 4096, 2560)], {}, batch
    yield "geglu, dynamic width", geglu.PLUGIN_ID, [(2, 64, 2560)], {}, batch | {(0, 2)}
    for name, shape, dynamic in (
        ("group norm, resident", (2, 1280, 8, 8), batch),
        ("group norm, streamed", (2, 320, 64, 64), batch),
        ("group norm, dynamic size", (2, 1280, 8, 8), batch | {(0, 2), (0, 3)}),
    ):
        channels = (shape[1],)
        yield name, group_norm_silu.PLUGIN_ID, [shape, channels, channels], NORM, dynamic


def main() -> None:
    tensorrt = tensorrt_layer.install()
    architecture = int(sys.argv[1])
    geglu.register_plugin(architecture)
    group_norm_silu.register_plugin(architecture)
    found = []
    for name, plugin_id, shapes, attributes, dynamic in cases():
        dtypes = [tensorrt.float16] * len(shapes)
        for launch in tensorrt_layer.launches(plugin_id, shapes, dtypes, attributes, dynamic):
            facts = asdict(launch) | {"case": name, "assembler_says": _assembled(launch.ptx)}
            accesses = global_accesses(facts.pop("ptx"))
            facts |= {"loads": accesses.loads, "stores": accesses.stores}
            found.append(facts | {"arguments": argument_count(launch.ptx)})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
