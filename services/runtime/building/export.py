"""Exports a module to an ONNX graph that leaves its weights where they are.

The graph depends on the model's configuration alone: while it is optimised its weights are plain
inputs, so nothing of them can be folded into it, and afterwards each becomes a reference that the
backend fills from the model's safetensors. All of a model's graphs together then weigh a megabyte
or two, and the same folder gives the same bytes on every machine.
"""

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from onnxscript import optimizer
from torch import nn

from ..engines.signatures import signature
from ..models.folder import ModelFolder, ModuleName
from ..models.weights import WeightStore
from .bank_graph import insert_bank
from .failures import ExportFailed
from .row_exact import make_row_exact

OPSET = 21
# Where the references point. No such file exists: a backend that ignores the list of weights
# must fail rather than read something else.
WEIGHTS_LOCATION = "weights"

# Example sizes. All differ from each other and from 1, or the tracer would take one for another
# or for a constant; a multiple of the sides that every level can halve.
_EXAMPLE_BATCH = 3
_EXAMPLE_SIDES = (2, 3)
_DYNAMIC = {2: "height", 3: "width"}


@dataclass(frozen=True, slots=True)
class ExportedGraph:
    """An ONNX graph without its weights.

    Attributes:
        content: the serialised model.
        weights: shape in the graph of each weight, by its name in the safetensors.
    """

    content: bytes
    weights: dict[str, tuple[int, ...]]


def example_inputs(
    folder: ModelFolder, module: ModuleName, batch: int, sides: tuple[int, int], seed: int = 0
) -> dict[str, np.ndarray[Any, Any]]:
    """Returns inputs of the module's signature, normally distributed.

    Args:
        folder: the model.
        module: which module.
        batch: rows.
        sides: height and width of a pictured input, in the smallest sizes that it takes.
        seed: of the values.
    """
    random = np.random.default_rng(seed)
    wanted = signature(folder, module)
    height, width = (side * wanted.side_multiple for side in sides)
    free = {0: batch, 1: folder.token_limit, 2: height, 3: width}
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for spec in wanted.inputs:
        shape = [free[axis] if size is None else size for axis, size in enumerate(spec.shape)]
        if spec.dtype == np.int64:
            vocabulary = folder.vocabulary_size
            arrays[spec.name] = random.integers(0, vocabulary, shape, dtype=np.int64)
        elif spec.name == "timestep":
            arrays[spec.name] = random.integers(0, 1000, shape).astype(np.float32)
        else:
            arrays[spec.name] = random.standard_normal(shape, dtype=np.float32)
    return arrays


def export_module(
    folder: ModelFolder, module: ModuleName, network: nn.Module, layers: Sequence[str] = ()
) -> ExportedGraph:
    """Returns the graph of a module.

    Args:
        folder: the model that the network was loaded from.
        module: which module it is.
        network: the module as `torch_modules.load_module` returns it.
        layers: names of the layers that take low-rank adapters.

    Raises:
        ExportFailed: the exporter or the optimiser cannot handle it.
    """
    try:
        with _quiet():
            model = _trace(folder, module, network)
            weights = _detach_weights(model.graph, folder.weights(module))
            _fold(model)
            make_row_exact(model.graph)
            insert_bank(model.graph, weights, layers)
            passes.NameFixPass()(model)
    except Exception as exc:
        raise ExportFailed(f"{module} cannot be exported: {exc}") from exc
    shapes = _attach_references(model.graph, weights)
    _strip(model)
    return ExportedGraph(ir.to_proto(model).SerializeToString(deterministic=True), shapes)


def export_at(
    network: nn.Module, inputs: Mapping[str, torch.Tensor], output: str
) -> tuple[ir.Model, tuple[str, ...]]:
    """Returns the plain graph of a network at the sizes of its inputs, and its weights' names.

    The weights become inputs of the graph, after `inputs`, so nothing of them is in it: the network
    may be one of fake tensors (`FakeTensorMode`), of any size. All sizes are numbers. The graph is
    for looking at; what is served comes from `export_module`.

    Args:
        network: takes the inputs in their order and returns one tensor.
        inputs: by name.
        output: name of what it returns.

    Raises:
        ExportFailed: the exporter or the optimiser cannot handle it.
    """
    names = {name for name, _ in (*network.named_parameters(), *network.named_buffers())}
    try:
        with _quiet(), torch.no_grad():
            model = _export(network, tuple(inputs.values()), list(inputs), [output], None)
            weights = [v for v in model.graph.initializers.values() if v.name in names]
            for value in weights:
                del model.graph.initializers[str(value.name)]
                value.const_value = None
                model.graph.inputs.append(value)
            _fold(model)
    except Exception as exc:
        raise ExportFailed(f"{type(network).__name__} cannot be exported: {exc}") from exc
    _strip(model)
    return model, tuple(str(value.name) for value in weights)


def _trace(folder: ModelFolder, module: ModuleName, network: nn.Module) -> ir.Model:
    wanted = signature(folder, module)
    arrays = example_inputs(folder, module, _EXAMPLE_BATCH, _EXAMPLE_SIDES)
    dynamic: list[dict[int, str]] = []
    for spec in wanted.inputs:
        axes = {0: "batch", 1: "tokens", **_DYNAMIC}
        dynamic.append({a: axes[a] for a, size in enumerate(spec.shape) if size is None})
    return _export(
        network,
        tuple(torch.from_numpy(array) for array in arrays.values()),
        [spec.name for spec in wanted.inputs],
        [spec.name for spec in wanted.outputs],
        dynamic,
    )


def _export(
    network: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    input_names: list[str],
    output_names: list[str],
    dynamic: list[dict[int, str]] | None,
) -> ir.Model:
    program = torch.onnx.export(
        network,
        inputs,
        dynamo=True,
        opset_version=OPSET,
        # The optimiser runs later, when the weights are out of its reach.
        optimize=False,
        dynamic_shapes=dynamic,
        input_names=input_names,
        output_names=output_names,
        verbose=False,
    )
    if program is None:
        raise ExportFailed("the exporter returned nothing")
    return program.model


def _fold(model: ir.Model) -> None:
    # onnxscript's default optimiser also runs its rewrite rules: 16 s for a UNet of Stable
    # Diffusion's shape against 0.4 s, to save 110 of 1,840 small nodes and no time in the engine.
    passes.InlinePass()(model)
    optimizer.fold_constants(model)
    for clean in (
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
    ):
        clean(model)


def _detach_weights(graph: ir.Graph, store: WeightStore) -> dict[str, ir.Value]:
    """Turns every initializer that the safetensors hold into an input; returns them by name."""
    by_content = {_fingerprint(array): name for name, array in store.items()}
    detached: dict[str, ir.Value] = {}
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or not tensor.dtype.is_floating_point():
            continue
        # By content and not by name: names differ between versions of the libraries, and two
        # tensors of the same content may share a reference, since the build's key holds the
        # digest of the weights.
        name = _same_name(value, store) or by_content.get(_fingerprint(tensor.numpy()))
        if name is None:
            continue
        del graph.initializers[str(value.name)]
        if name in detached and detached[name].shape == value.shape:
            ir.convenience.replace_all_uses_with(value, detached[name])
            continue
        value.const_value = None
        graph.inputs.append(value)
        detached[name] = value
    return detached


def _same_name(value: ir.Value, store: WeightStore) -> str | None:
    # Wrapped modules have a prefix that the file lacks: `model.conv_in.weight`.
    tensor = value.const_value
    for name in (str(value.name), str(value.name).partition(".")[2]):
        if name in store and tensor is not None:
            stored = store.read(name)
            if stored.shape == tuple(tensor.shape) and np.array_equal(stored, tensor.numpy()):
                return name
    return None


def _fingerprint(array: np.ndarray[Any, Any]) -> tuple[int, str]:
    flat = np.ascontiguousarray(array, np.float32)
    return flat.size, hashlib.sha256(flat.tobytes()).hexdigest()


def _attach_references(graph: ir.Graph, weights: dict[str, ir.Value]) -> dict[str, tuple[int, ...]]:
    """Turns the inputs back into initializers without content; returns their shapes."""
    taken = {str(value.name) for node in graph for value in node.outputs}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, value in weights.items():
        graph.inputs.remove(value)
        if not value.uses():
            continue
        if name in taken or value.shape is None:
            raise ExportFailed(f"{name} is the name of a weight and of something else")
        shape = tuple(int(n) for n in value.shape.numpy())
        value.name = name
        value.const_value = ir.ExternalTensor(
            WEIGHTS_LOCATION,
            0,
            4 * int(np.prod(shape)),
            ir.DataType.FLOAT,
            shape=value.shape,
            name=name,
        )
        graph.register_initializer(value)
        shapes[name] = shape
    return shapes


def _strip(model: ir.Model) -> None:
    """Takes out all that differs between machines: stack traces, paths, versions."""
    passes.ClearMetadataAndDocStringPass()(model)
    model.producer_name = "sangsang"
    model.producer_version = None
    model.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.metadata_props.clear()
        value.doc_string = None
    for index, node in enumerate(model.graph):
        node.name = f"{node.op_type}_{index}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's notes on packages that no module of ours needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
