"""Checks a graph that was converted to f16, without hardware that computes in f16.

ONNX Runtime has few operators in f16 on a CPU; it computes the others in f32 and rounds only here
and there, so the converted graph itself would look better than it is. Here it is brought back to
f32 with a rounding to f16 behind every operation that it computes in f16: what a GPU gives that
sums in f32.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ..engines.adapter_bank import SCALE_NAME, AdapterBank
from ..engines.engine import Engine
from ..engines.onnx_runtime import OnnxRuntimeEngine, session_options
from ..engines.onnx_runtime_import import ort
from ..models.folder import ModelFolder, ModuleName
from .export import example_inputs
from .failures import ExportFailed
from .half_precision import half_of

# Largest difference allowed from f32, as a share of the largest output (at least 1). f16 keeps 11
# bits, and a network loses a few.
TOLERANCE = 2e-2
# Rows and sides of the checks, in the smallest sizes that the module takes.
_SHAPES: tuple[tuple[int, tuple[int, int]], ...] = ((1, (4, 4)), (3, (3, 5)))
_F32, _F16 = ir.DataType.FLOAT, ir.DataType.FLOAT16

Inputs = Mapping[str, np.ndarray[Any, Any]]


def check_half(
    folder: ModelFolder, module: ModuleName, build: Path, converted: Path, bank: AdapterBank | None
) -> float:
    """Returns the largest absolute difference between a converted graph and its f32 original.

    Args:
        folder: the model.
        module: which module.
        build: folder of the module's build for ONNX Runtime.
        converted: file of the converted graph, with weights; a file is written beside it.
        bank: adapters that the graph takes.

    Raises:
        ExportFailed: the types of the converted graph contradict each other, or it differs.
    """
    try:
        onnx.checker.check_model(str(converted), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise ExportFailed(f"its conversion is not sound: {exc}") from exc
    rounded = converted.with_name("rounded.onnx")
    ir.save(round_everywhere(ir.load(converted)), rounded, external_data="rounded.bin")
    session = ort.InferenceSession(
        str(rounded), session_options(1), providers=["CPUExecutionProvider"]
    )
    reference = OnnxRuntimeEngine(folder, module, build, bank=bank)
    try:
        return max(
            _difference(reference, session, inputs, {} if bank is None else bank.arrays)
            for inputs in example_calls(folder, module, bank)
        )
    finally:
        reference.close()


def round_everywhere(model: ir.Model) -> ir.Model:
    """Returns a graph, changed in place, that computes in f32 and rounds what was in f16 to it."""
    graph = model.graph
    for value in graph.initializers.values():
        if value.dtype == _F16 and value.const_value is not None:
            array = value.const_value.numpy().astype(np.float32)
            value.const_value, value.dtype = ir.tensor(array, name=value.name), _F32
    for value in graph.inputs:
        if value.dtype == _F16:
            value.dtype = _F32
    for node in list(graph):
        _compute_in_f32(node)
        for output in node.outputs:
            if output.dtype == _F16:
                output.dtype = _F32
                _round(graph, node, output)
    return model


def _compute_in_f32(node: ir.Node) -> None:
    if node.op_type == "Cast" and node.attributes.get_int("to") == _F16:
        node.attributes["to"] = ir.AttrInt64("to", int(_F32))
    if node.op_type == "ConstantOfShape":
        value = node.attributes.get_tensor("value")
        if value is not None and value.dtype == _F16:
            array = value.numpy().astype(np.float32)
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))


def _round(graph: ir.Graph, node: ir.Node, output: ir.Value) -> None:
    users = list(output.uses())
    down = ir.node("Cast", [output], {"to": int(_F16)})
    back = ir.node("Cast", [down.outputs[0]], {"to": int(_F32)})
    graph.insert_after(node, [down, back])
    for user in users:
        user.node.replace_input_with(user.idx, back.outputs[0])


def example_calls(
    folder: ModelFolder,
    module: ModuleName,
    bank: AdapterBank | None,
    shapes: Sequence[tuple[int, tuple[int, int]]] = _SHAPES,
) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Returns random inputs, with scales of the adapters if there are any.

    Args:
        folder: the model.
        module: which module.
        bank: its adapters.
        shapes: rows and sides of each, the latter in the smallest sizes that the module takes.
    """
    found: list[dict[str, np.ndarray[Any, Any]]] = []
    for seed, (rows, sides) in enumerate(shapes):
        inputs: dict[str, np.ndarray[Any, Any]] = example_inputs(folder, module, rows, sides, seed)
        if bank is not None:
            shape = (rows, len(bank.slot_names))
            scales = np.random.default_rng(seed).uniform(-1, 2, shape)
            inputs[SCALE_NAME] = scales.astype(np.float32)
        found.append(inputs)
    return found


def require_near(expected: np.ndarray[Any, Any], actual: np.ndarray[Any, Any]) -> float:
    """Returns the largest absolute difference of a result in f16 from that in f32.

    Raises:
        ExportFailed: it is beyond the tolerance, or a result is not finite.
    """
    # NaN anywhere makes the result NaN, which no comparison lets pass.
    difference = float(np.abs(expected - actual).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise ExportFailed(f"with f16 the result differs by {difference:.2e} from f32")
    return difference


def _difference(
    reference: Engine, session: ort.InferenceSession, inputs: Inputs, bank: Inputs
) -> float:
    name = reference.outputs[0].name
    # The engine gets the adapters in f16.
    halves = {n: half_of(a).astype(a.dtype) if a.dtype.kind == "f" else a for n, a in bank.items()}
    actual = np.asarray(session.run([name], {**inputs, **halves})[0])
    return require_near(reference.infer(inputs)[name], actual)
