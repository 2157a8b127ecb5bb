"""Checks a graph that was converted to f16: ranges, and what it computes.

ONNX Runtime has few operators in f16 on a CPU and computes the others in f32, rounding only between
some. So two things are looked at: whether any value of the f32 graph is beyond what f16 can hold,
and whether the converted graph computes what the f32 graph does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from ..engines.adapter_bank import SCALE_NAME, AdapterBank
from ..engines.onnx_runtime import session_options
from ..models.folder import ModelFolder, ModuleName
from .export import example_inputs
from .failures import ExportFailed
from .half_precision import MOST_F16, half_of

# Largest difference allowed between the converted graph and f32, as a share of the largest output
# (at least 1). f16 keeps 11 bits, and a network loses a few.
TOLERANCE = 2e-2
# Rows and sides of the checks, in the smallest sizes that the module takes.
_SHAPES: tuple[tuple[int, tuple[int, int]], ...] = ((1, (4, 4)), (3, (3, 5)))
# A mask takes away with the least number of f32, and f16 does with its own.
_AS_GOOD_AS_INFINITE = 1e37

Inputs = Mapping[str, np.ndarray[Any, Any]]


def check_half(
    folder: ModelFolder,
    module: ModuleName,
    exact: onnx.ModelProto,
    weights: Inputs,
    converted: Path,
    bank: AdapterBank | None,
) -> float:
    """Returns the largest absolute difference between a converted graph and its f32 original.

    Args:
        folder: the model.
        module: which module.
        exact: the graph in f32, without weights, values typed.
        weights: its weights.
        converted: file of the converted graph, with weights.
        bank: adapters that the graph takes.

    Raises:
        ExportFailed: a value is beyond f16, or the results differ.
    """
    halves = _half_values(ir.load(converted))
    output = exact.graph.output[0].name
    probe = onnx.ModelProto()
    probe.CopyFrom(exact)
    probe.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in sorted(halves - {output})
    )
    full = _open(probe.SerializeToString(), weights)
    half = _open(str(converted), {})
    largest = 0.0
    for seed, (rows, sides) in enumerate(_SHAPES):
        inputs = _inputs(folder, module, rows, sides, bank, seed)
        names = [value.name for value in full.get_outputs()]
        values = dict(zip(names, map(np.asarray, full.run(names, dict(inputs))), strict=True))
        _check_range(values)
        taken = {value.name: value.type for value in half.get_inputs()}
        feeds = {n: half_of(a) if taken[n] == "tensor(float16)" else a for n, a in inputs.items()}
        [actual] = half.run([output], feeds)
        largest = max(largest, _difference(values[output], np.asarray(actual)))
    return largest


def _half_values(model: ir.Model) -> set[str]:
    """Names of what the converted graph computes in f16 under the name that it had in f32."""
    values = [value for node in model.graph for value in node.outputs]
    return {
        str(value.name).removesuffix(".float16")
        for value in values
        if value.dtype == ir.DataType.FLOAT16 and _is_original(value)
    }


def _is_original(value: ir.Value) -> bool:
    producer = value.producer()
    # The conversion's own casts repeat a value.
    return producer is not None and not str(producer.name).endswith(".cast")


def _open(graph: str | bytes, weights: Inputs) -> ort.InferenceSession:
    options = session_options(1)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
    options.add_external_initializers(list(weights), values)
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _inputs(
    folder: ModelFolder,
    module: ModuleName,
    rows: int,
    sides: tuple[int, int],
    bank: AdapterBank | None,
    seed: int,
) -> dict[str, np.ndarray[Any, Any]]:
    inputs: dict[str, np.ndarray[Any, Any]] = example_inputs(folder, module, rows, sides, seed)
    if bank is not None:
        shape = (rows, len(bank.slot_names))
        scales = np.random.default_rng(seed).uniform(-1, 2, shape)
        inputs |= {SCALE_NAME: scales.astype(np.float32), **bank.arrays}
    return inputs


def _check_range(values: Inputs) -> None:
    for name, array in values.items():
        size = np.abs(array)
        most = float(size[size < _AS_GOOD_AS_INFINITE].max(initial=0.0))
        if most > MOST_F16:
            raise ExportFailed(f"{name} reaches {most:.3g}, and f16 ends at {MOST_F16:.0f}")


def _difference(expected: np.ndarray[Any, Any], actual: np.ndarray[Any, Any]) -> float:
    # NaN anywhere makes the result NaN, which no comparison lets pass.
    difference = float(np.abs(expected - actual).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise ExportFailed(f"its f16 differs from f32 by {difference:.2e}")
    return difference
