"""A UNet step in TensorRT with and without our kernels, and two lanes against one. Not run yet.

Run: make bench-gpu, which runs the GPU tests first. Prints medians of steps that are taken in turn,
and what two lanes do together against one alone. Needs `sangsang[build,tensorrt]` and a GPU.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from threading import Barrier, Thread

import torch

from sangsang.kernels.compiling.catalogue import plugin_names
from sangsang.services.runtime.building.build import build_model
from sangsang.services.runtime.building.engine_builds import target_devices
from sangsang.services.runtime.building.half_checking import example_calls
from sangsang.services.runtime.building.tensor_rt import TensorRtBuilder
from sangsang.services.runtime.engines import onnx_runtime
from sangsang.services.runtime.engines.adapter_bank import open_bank
from sangsang.services.runtime.engines.cache import EngineCache
from sangsang.services.runtime.engines.execution_lane import ExecutionLane
from sangsang.services.runtime.engines.loading import find_build
from sangsang.services.runtime.engines.tensor_rt import (
    BACKEND,
    BUCKETS,
    PLAN_NAME,
    PLUGINS,
    library,
    open_engine,
)
from sangsang.services.runtime.models.folder import ModelFolder

REPEATS = 50
# Plain, then the capture.
WARM_UPS = 3
VARIANTS = {"TensorRT's own": (), "ours": PLUGINS, "ours, attention too": plugin_names()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_folder", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no NVIDIA GPU that this build of torch can use")
    folder = ModelFolder.open(arguments.model_folder)
    print(f"{torch.cuda.get_device_name()}, TensorRT {library().__version__}, {folder.model_id}\n")
    with tempfile.TemporaryDirectory() as place:
        cache = EngineCache(Path(place))
        build_model(folder, cache_dir=cache, max_step_count=2)
        engines = {name: _built(folder, cache, names) for name, names in VARIANTS.items()}
        _print_steps(folder, engines)
        _print_lanes(folder, engines["ours"])


def _built(folder, cache, plugins):
    graph = find_build(folder, onnx_runtime.build_key(folder, "unet"), cache)
    bank, [device] = open_bank(folder), target_devices(BACKEND, ())
    target = Path(tempfile.mkdtemp(dir=cache.root))
    with TensorRtBuilder(folder, "unet", graph, bank, cache, plugins) as builder:
        builder.build(target, device)
    return open_engine(folder, "unet", (target / PLAN_NAME).read_bytes(), bank=bank)


def _print_steps(folder, engines):
    print("| rows | " + " | ".join(engines) + " |")
    print("|---" * (1 + len(engines)) + "|")
    for rows in BUCKETS:
        bound = {name: _bound(folder, engine, rows) for name, engine in engines.items()}
        times = {name: [] for name in engines}
        for turn in range(WARM_UPS + REPEATS):
            for name, engine in engines.items():
                seconds = _seconds(engine, bound[name])
                if turn >= WARM_UPS:
                    times[name].append(seconds)
        first = median(times[next(iter(engines))])
        cells = [f"{median(t) * 1e3:.2f} ms ({median(t) / first:.2f})" for t in times.values()]
        print(f"| {rows} | " + " | ".join(cells) + " |")


def _print_lanes(folder, engine):
    """Steps a second of one lane, and of two that run at once."""
    lanes = [engine, engine.in_lane(ExecutionLane())]
    for rows in BUCKETS:
        bound = [_bound(folder, one, rows) for one in lanes]
        one = _rate(lanes[:1], bound[:1])
        two = _rate(lanes, bound)
        rates = f"one lane {one:.0f} steps/s, two {two:.0f} ({two / one:.2f})"
        print(f"\n{rows} rows: {rates}")


def _bound(folder, engine, rows):
    """Tensors of the GPU for a step of the model's usual picture."""
    side = (folder.default_height_px // folder.size_multiple_px,) * 2
    [call] = example_calls(folder, "unet", open_bank(folder), [(rows, side)])
    tensors = {name: torch.from_numpy(array).cuda() for name, array in call.items()}
    [(name, output)] = engine.infer(call).items()
    return tensors | {name: torch.empty(output.shape, device="cuda")}


def _seconds(engine, tensors):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    engine.run_in_place(tensors)
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def _rate(lanes, bound):
    barrier, seconds = Barrier(len(lanes)), []

    def serve(engine, tensors):
        # Each caller has a stream of its own, or they would wait for each other.
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(WARM_UPS):
                engine.run_in_place(tensors)
            torch.cuda.current_stream().synchronize()
            barrier.wait()
            started = time.perf_counter()
            for _ in range(REPEATS):
                engine.run_in_place(tensors)
            torch.cuda.current_stream().synchronize()
            seconds.append(time.perf_counter() - started)

    threads = [Thread(target=serve, args=pair) for pair in zip(lanes, bound, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(lanes) * REPEATS / max(seconds)


if __name__ == "__main__":
    main()
