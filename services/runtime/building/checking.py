"""Checks an export: against torch, and a row alone against the same row in a batch.

What OpenVINO compiles is checked against ONNX Runtime, which runs the same graph.

A UNet that takes adapters is checked with banks of random content.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..engines.adapter_bank import SCALE_NAME, AdapterBank
from ..engines.engine import Engine
from ..engines.onnx_runtime import OnnxRuntimeEngine
from ..engines.torch_modules import AdaptedUnet
from ..models.adapters import Adapter, LowRank
from ..models.folder import ModelFolder, ModuleName
from .export import example_inputs
from .failures import CheckReport, ExportFailed

# Largest difference allowed between the engine and torch, as a share of the largest output (at
# least 1). Both compute in f32 and sum in another order: 1e-5 is usual, a wrong graph is off by 1.
TOLERANCE = 5e-4
# Rows and sides of the checks, in the smallest sizes that the module takes. One row, odd rows,
# several rows; square and not; none of them the sizes that the tracer saw.
_SHAPES: tuple[tuple[int, tuple[int, int]], ...] = ((1, (4, 4)), (2, (3, 5)), (5, (4, 2)))
# Every batch here is compared with the first rows of the last.
_BATCHES = (1, 2, 3, 4, 5, 8)
_BATCH_SIDES = (4, 4)
# Ranks of the random adapters in each bank: several slots, and the narrowest bank there is.
_BANKS: tuple[tuple[int, ...], ...] = ((3, 5), (1,))


def check_export(
    folder: ModelFolder,
    module: ModuleName,
    build: Path,
    network: nn.Module,
    layers: Sequence[str] = (),
) -> CheckReport:
    """Returns how a build compares with torch.

    Args:
        folder: the model.
        module: which module.
        build: folder with the graph.
        network: the module in torch.
        layers: names of the layers that take low-rank adapters.

    Raises:
        ExportFailed: a difference from torch exceeds `TOLERANCE`, or a value is not finite.
    """
    if not layers:
        return _check(folder, module, build, network, None)
    banks = [_random_bank(folder, layers, ranks) for ranks in _BANKS]
    reports = [_check(folder, module, build, network, bank) for bank in banks]
    return CheckReport(
        max(report.max_difference for report in reports),
        all(report.row_exact for report in reports)
        and _is_bank_exact(folder, module, build, banks),
    )


def _check(
    folder: ModelFolder,
    module: ModuleName,
    build: Path,
    network: nn.Module,
    bank: AdapterBank | None,
) -> CheckReport:
    # One thread: so the mesh serves, and so nothing depends on this machine's number of cores.
    engine = OnnxRuntimeEngine(folder, module, build, threads=1, bank=bank)
    adapted = None if bank is None else AdaptedUnet(network, bank)
    try:
        largest = 0.0
        for seed, (batch, sides) in enumerate(_SHAPES):
            inputs = _inputs(folder, module, batch, sides, bank, seed)
            largest = max(largest, _compare(engine, adapted or network, inputs))
        inputs = _inputs(folder, module, _BATCHES[-1], _BATCH_SIDES, bank)
        return CheckReport(largest, _is_row_exact(engine, inputs))
    finally:
        engine.close()
        if adapted is not None:
            adapted.detach()


def _inputs(
    folder: ModelFolder,
    module: ModuleName,
    batch: int,
    sides: tuple[int, int],
    bank: AdapterBank | None,
    seed: int = 0,
) -> dict[str, np.ndarray[Any, Any]]:
    inputs = example_inputs(folder, module, batch, sides, seed)
    if bank is not None:
        shape = (batch, len(bank.slot_names))
        scales = np.random.default_rng(seed).uniform(-1, 2, shape).astype(np.float32)
        # Every other row is the UNet's own.
        scales[1::2] = 0
        inputs[SCALE_NAME] = scales
    return inputs


def _random_bank(folder: ModelFolder, layers: Sequence[str], ranks: Sequence[int]) -> AdapterBank:
    random = np.random.default_rng(0)
    store = folder.weights("unet")

    def low_rank(shape: tuple[int, ...], rank: int) -> LowRank:
        down = random.standard_normal((rank, *shape[1:]), np.float32)
        up = random.standard_normal((shape[0], rank, *(1,) * (len(shape) - 2)), np.float32)
        # About a third of what the layer itself gives, so that a mistake shows.
        return LowRank(down / math.sqrt(math.prod(shape[1:])), up / math.sqrt(9 * rank))

    adapters = [
        Adapter(
            f"random_{rank}",
            {
                # Ranks differ from layer to layer, and the last slot lacks every third layer.
                layer: low_rank(store.tensors[f"{layer}.weight"].shape, rank + index % 2)
                for index, layer in enumerate(layers)
                if index % 3 or rank != ranks[-1]
            },
        )
        for rank in ranks
    ]
    return AdapterBank(adapters, store, layers)


def check_compiled(
    folder: ModelFolder,
    module: ModuleName,
    engine: Engine,
    reference: Engine,
    bank: AdapterBank | None = None,
) -> CheckReport:
    """Returns how an engine compares with another of the same module.

    Args:
        folder: the model.
        module: which module.
        engine: what is checked.
        reference: what has been checked.
        bank: the adapters of both, if any.

    Raises:
        ExportFailed: a difference exceeds `TOLERANCE`, or a value is not finite.
    """
    largest = 0.0
    for seed, (batch, sides) in enumerate(_SHAPES):
        inputs = _inputs(folder, module, batch, sides, bank, seed)
        expected = reference.infer(inputs)[engine.outputs[0].name]
        largest = max(largest, _difference(engine, expected, inputs, reference.backend))
    inputs = _inputs(folder, module, _BATCHES[-1], _BATCH_SIDES, bank)
    return CheckReport(largest, _is_row_exact(engine, inputs))


def _compare(engine: Engine, network: nn.Module, inputs: dict[str, np.ndarray[Any, Any]]) -> float:
    with torch.inference_mode(), _one_thread():
        expected = network(*map(torch.from_numpy, inputs.values())).numpy()
    return _difference(engine, expected, inputs, "torch")


def _difference(
    engine: Engine,
    expected: np.ndarray[Any, Any],
    inputs: dict[str, np.ndarray[Any, Any]],
    reference: str,
) -> float:
    actual = engine.infer(inputs)[engine.outputs[0].name]
    same_shape = expected.shape == actual.shape
    # NaN anywhere makes the result NaN, which no comparison lets pass.
    difference = float(np.abs(expected - actual).max()) if same_shape else float("inf")
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        shapes = {name: list(array.shape) for name, array in inputs.items()}
        raise ExportFailed(
            f"the export of {engine.name} differs from {reference} by {difference:.2e} "
            f"for {shapes} on {engine.backend}; "
            "please report the model's configuration"
        )
    return difference


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keeps torch to one thread.

    Its threads spin for each other after every operation: beside other work on the same cores,
    checking a small UNet took 117 s instead of 2.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _is_row_exact(engine: Engine, inputs: dict[str, np.ndarray[Any, Any]]) -> bool:
    output = engine.outputs[0].name
    together = engine.infer(inputs)[output]
    return all(
        np.array_equal(
            engine.infer({name: array[:batch] for name, array in inputs.items()})[output],
            together[:batch],
        )
        for batch in _BATCHES
    )


def _is_bank_exact(
    folder: ModelFolder, module: ModuleName, build: Path, banks: Sequence[AdapterBank]
) -> bool:
    """Returns whether the UNet's own rows get the same bits whatever the bank holds."""
    inputs = example_inputs(folder, module, 3, _BATCH_SIDES)
    outputs: list[np.ndarray[Any, Any]] = []
    for bank in banks:
        engine = OnnxRuntimeEngine(folder, module, build, threads=1, bank=bank)
        outputs.append(engine.infer(inputs)[engine.outputs[0].name])
        engine.close()
    return all(np.array_equal(output, outputs[0]) for output in outputs)
