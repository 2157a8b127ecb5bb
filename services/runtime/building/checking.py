"""Checks an export: against torch, and a row alone against the same row in a batch."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..engines.engine import Engine
from ..engines.onnx_runtime import OnnxRuntimeEngine
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


def check_export(
    folder: ModelFolder, module: ModuleName, build: Path, network: nn.Module
) -> CheckReport:
    """Returns how a build compares with torch.

    Args:
        folder: the model.
        module: which module.
        build: folder with the graph.
        network: the module in torch.

    Raises:
        ExportFailed: a difference from torch exceeds `TOLERANCE`, or a value is not finite.
    """
    # One thread: so the mesh serves, and so nothing depends on this machine's number of cores.
    engine = OnnxRuntimeEngine(folder, module, build, threads=1)
    try:
        largest = 0.0
        for seed, (batch, sides) in enumerate(_SHAPES):
            inputs = example_inputs(folder, module, batch, sides, seed)
            largest = max(largest, _compare(engine, network, inputs))
        return CheckReport(largest, _is_row_exact(engine, folder, module))
    finally:
        engine.close()


def _compare(engine: Engine, network: nn.Module, inputs: dict[str, np.ndarray[Any, Any]]) -> float:
    with torch.inference_mode():
        expected = network(*map(torch.from_numpy, inputs.values())).numpy()
    actual = engine.infer(inputs)[engine.outputs[0].name]
    same_shape = expected.shape == actual.shape
    # NaN anywhere makes the result NaN, which no comparison lets pass.
    difference = float(np.abs(expected - actual).max()) if same_shape else float("inf")
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        shapes = {name: list(array.shape) for name, array in inputs.items()}
        raise ExportFailed(
            f"the export of {engine.name} differs from torch by {difference:.2e} for {shapes}; "
            "please report the model's configuration"
        )
    return difference


def _is_row_exact(engine: Engine, folder: ModelFolder, module: ModuleName) -> bool:
    inputs = example_inputs(folder, module, _BATCHES[-1], _BATCH_SIDES)
    output = engine.outputs[0].name
    together = engine.infer(inputs)[output]
    return all(
        np.array_equal(
            engine.infer({name: array[:batch] for name, array in inputs.items()})[output],
            together[:batch],
        )
        for batch in _BATCHES
    )
