"""What a bank of low-rank adapters costs over the plain engine, for each UNet evaluation.

The model's UNet is exported twice, without a bank and with one for every linear layer and every
convolution. Then both run the same rows in turn, so that both meet the same machine; each bank's
ratio is that of the medians. In the last two columns one row uses the bank, of rank 32, and none
does; in the others all do.
Measured is the CPU time of the one thread that computes: neighbours on the machine count little.

Run: python -m tests.benchmarks.bank_against_plain deploy/models/pocket
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sangsang.services.runtime.building.export import example_inputs, export_module
from sangsang.services.runtime.engines.adapter_bank import SCALE_NAME, AdapterBank
from sangsang.services.runtime.engines.onnx_runtime import OnnxRuntimeEngine
from sangsang.services.runtime.engines.torch_modules import load_module
from sangsang.services.runtime.engines.weightless import GRAPH_NAME, write_weight_list
from sangsang.services.runtime.models.adapters import Adapter, LowRank
from sangsang.services.runtime.models.folder import ModelFolder

BATCHES = (1, 2, 4, 8)
# Ranks of the slots of each bank.
BANKS = ((4,), (16,), (32,), (64,), (16, 16), (16, 16, 16, 16))
SOMETIMES_USED = (32,)


def adaptable(folder: ModelFolder, kinds: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The weights of the layers whose weights have so many dimensions, by the layer's name."""
    tensors = folder.weights("unet").tensors
    weights = {n.removesuffix(".weight"): t.shape for n, t in tensors.items() if ".weight" in n}
    return {name: shape for name, shape in weights.items() if len(shape) in kinds}


def export(folder: ModelFolder, layers: Sequence[str], target: Path) -> Path:
    exported = export_module(folder, "unet", load_module(folder, "unet"), layers)
    target.mkdir()
    (target / GRAPH_NAME).write_bytes(exported.content)
    write_weight_list(target / GRAPH_NAME, exported.weights)
    return target


def random_bank(folder: ModelFolder, ranks: tuple[int, ...], kinds: tuple[int, ...]) -> AdapterBank:
    random = np.random.default_rng(0)

    def low_rank(shape: tuple[int, ...], rank: int) -> LowRank:
        down = random.standard_normal((rank, *shape[1:]), np.float32)
        up = random.standard_normal((shape[0], rank, *(1,) * (len(shape) - 2)), np.float32)
        return LowRank(down / math.sqrt(math.prod(shape[1:])), up / (10 * math.sqrt(rank)))

    layers = adaptable(folder, kinds)
    adapters = [
        Adapter(f"slot_{slot}", {name: low_rank(shape, rank) for name, shape in layers.items()})
        for slot, rank in enumerate(ranks)
    ]
    return AdapterBank(adapters, folder.weights("unet"))


def timed(function: Callable[[], object]) -> float:
    started_at = time.thread_time()
    function()
    return time.thread_time() - started_at


def medians(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for index in track(range(repeats + 2), transient=True):
        for name, run in runs.items():
            seconds = timed(run)
            # The first two warm all sides up.
            if index >= 2:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("--repeats", type=int, default=30, help="evaluations of each kind")
    parser.add_argument("--linear-only", action="store_true", help="adapt no convolutions")
    arguments = parser.parse_args()
    folder = ModelFolder.open(arguments.model)
    kinds = (2,) if arguments.linear_only else (2, 4)
    side = folder.default_height_px // folder.size_multiple_px
    with tempfile.TemporaryDirectory() as name:
        plain_build = export(folder, (), Path(name) / "plain")
        bank_build = export(folder, sorted(adaptable(folder, kinds)), Path(name) / "bank")
        plain = OnnxRuntimeEngine(folder, "unet", plain_build)
        banked = {
            ranks: OnnxRuntimeEngine(
                folder, "unet", bank_build, bank=random_bank(folder, ranks, kinds)
            )
            for ranks in BANKS
        }
    table = Table(
        "rows", "plain", *("+".join(map(str, ranks)) for ranks in BANKS), "one row", "none"
    )
    for batch in BATCHES:
        inputs = example_inputs(folder, "unet", batch, (side, side))
        runs: dict[str, Callable[[], object]] = {"plain": lambda i=inputs: plain.infer(i)}
        for ranks, engine in banked.items():
            scales = np.zeros((batch, len(ranks)), np.float32)
            scales[:, 0] = 1
            with_scales = {**inputs, SCALE_NAME: scales}
            runs[str(ranks)] = lambda e=engine, i=with_scales: e.infer(i)
        one = np.zeros((batch, 1), np.float32)
        one[0] = 1
        mixed = {**inputs, SCALE_NAME: one}
        runs["one row"] = lambda i=mixed: banked[SOMETIMES_USED].infer(i)
        runs["none"] = lambda i=inputs: banked[SOMETIMES_USED].infer(i)
        found = medians(runs, arguments.repeats)
        ratios = [f"{found[name] / found['plain']:.2f}" for name in runs if name != "plain"]
        table.add_row(str(batch), f"{found['plain'] * 1000:.1f} ms", *ratios)
    Console().print(f"{len(adaptable(folder, kinds))} layers; ratios to the plain engine by ranks")
    Console().print(table)


if __name__ == "__main__":
    main()
