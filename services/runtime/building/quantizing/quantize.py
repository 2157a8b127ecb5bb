"""From a build for ONNX Runtime to the graph of an engine: in f16, a UNet's products in 8 bits."""

from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from ...engines.adapter_bank import AdapterBank
from ...engines.onnx_runtime import OnnxRuntimeEngine
from ...engines.precisions import DEFAULT_PRECISION, Precision, read_prompts
from ...engines.tensor_rt_sizes import bank_shapes
from ...engines.weightless import GRAPH_NAME, read_weights
from ...models.folder import ModelFolder, ModuleName
from ..failures import ExportFailed
from ..fusing.fuse import fuse
from ..fusing.matching import Pattern
from ..half_precision import fill_weights, fix_shapes, static_graph, to_half_precision
from .calibration import find_scales
from .insertion import insert_quantization
from .layers import choose_layers, fold_transposes
from .trajectories import collect

# Rows of one evaluation while calibrating.
_ROWS = 16


def convert(
    folder: ModelFolder,
    module: ModuleName,
    build: Path,
    bank: AdapterBank | None,
    precision: Precision,
    patterns: Sequence[Pattern] = (),
) -> ir.Model:
    """Returns a module's graph in a precision, weights inside: f16, and 8 bits where it says so.

    Args:
        folder: the model.
        module: which module; the UNet for any precision, the others for f16.
        build: folder of its build for ONNX Runtime.
        bank: its adapters; their inputs become f16, whatever the precision.
        precision: what the products compute in.
        patterns: what of the graph becomes nodes of ours.

    Raises:
        ModelNotReady: modelopt is not installed, or the model has no prompts for calibration.
        ExportFailed: the graph cannot be converted or quantised.
    """
    shapes = bank_shapes(bank)
    graph = build / GRAPH_NAME
    typed = ir.from_proto(static_graph(onnx.load(graph, load_external_data=False)))
    if patterns:
        fuse(typed, patterns)
    fill_weights(typed.graph, read_weights(graph, folder.weights(module)))
    if precision != DEFAULT_PRECISION:
        fix_shapes(typed.graph, shapes)
        fold_transposes(typed.graph)
        _quantize(typed, folder, build, bank, precision)
    return to_half_precision(typed, {}, shapes)


def _quantize(
    model: ir.Model,
    folder: ModelFolder,
    build: Path,
    bank: AdapterBank | None,
    precision: Precision,
) -> None:
    taken = choose_layers(model.graph).taken
    if not taken:
        raise ExportFailed("no layer of it can be quantised: its weights are not in its blocks")
    engine = OnnxRuntimeEngine(folder, "unet", build, bank=bank)
    try:
        seen = collect(folder, engine, bank, read_prompts(folder))
    finally:
        engine.close()
    arrays = {} if bank is None else bank.arrays
    batches = ({**batch, **arrays} for batch in seen.batches(_ROWS))
    scales = find_scales(model, [str(n.name) for n in taken.values()], precision, batches)
    if not scales:
        raise ExportFailed("modelopt quantised no layer of it")
    insert_quantization(model.graph, scales, precision)
