"""Reads one of our graphs into OpenVINO, and its weights from the model's own safetensors.

A graph on disk names its weights without holding them. They become inputs of the graph that
OpenVINO parses, and constants right after, so loading needs neither `onnx` nor the weights in ONNX.

Two things of a graph with adapters are beyond OpenVINO 2026.4. It has no convolution by a matrix
whose width is unknown, so the adapters are constants too. And once an `If` has gone one way, its
output keeps the shape and content of that time when it goes the other: rows came out that had
never gone in. So the adapters' products are always computed, for all rows. (A second model without
them, for batches that use none, had the same bits in the shipped model and others in the next one
tried.)
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from ..errors import ModelNotReady
from .adapter_bank import ROW_INDICES_NAME, ROWS_NAME
from .engine import Array
from .openvino_import import ov

_FLOAT = 1
_MESSAGE = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
_INT64 = descriptor_pb2.FieldDescriptorProto.TYPE_INT64
_INT32 = descriptor_pb2.FieldDescriptorProto.TYPE_INT32
_STRING = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
# The fields of ONNX that are needed here, by their public numbers: name, number, type, repeated.
# protobuf keeps the others as they are.
_FIELDS: Mapping[str, tuple[tuple[str, int, Any, bool], ...]] = {
    "Model": (("graph", 7, "Graph", False),),
    "Graph": (("initializer", 5, "Tensor", True), ("input", 11, "Value", True)),
    "Tensor": (("dims", 1, _INT64, True), ("name", 8, _STRING, False)),
    "Value": (("name", 1, _STRING, False), ("type", 2, "Type", False)),
    "Type": (("tensor_type", 1, "TensorType", False),),
    "TensorType": (("elem_type", 1, _INT32, False), ("shape", 2, "Shape", False)),
    "Shape": (("dim", 1, "Dimension", True),),
    "Dimension": (("dim_value", 1, _INT64, False),),
}


def read_graph(core: ov.Core, graph: Path, constants: Mapping[str, Array]) -> ov.Model:
    """Returns a graph as an OpenVINO model.

    Args:
        core: OpenVINO.
        graph: our ONNX file, without weights.
        constants: every weight of the graph, and those inputs that shall be constant, by name.
            The model reads most of them where they are: they must outlive it.

    Raises:
        ModelNotReady: OpenVINO cannot read the graph, or a weight is not in it.
    """
    try:
        content = _with_weights_as_inputs(graph.read_bytes(), constants)
        model = core.read_model(io.BytesIO(content))
        missing = set(constants) - _fill(model, constants)
        _always_adapt(model)
        _adapt_all_rows(model)
        model.validate_nodes_and_infer_types()
    # OpenVINO's exceptions have no common base of their own.
    except Exception as exc:
        raise ModelNotReady(
            f"OpenVINO {ov.__version__} cannot read {graph}: {exc}; "
            "delete it and run `sangsang build` again, or take the backend onnxruntime"
        ) from exc
    if missing:
        raise ModelNotReady(f"{graph} takes no {', '.join(sorted(missing)[:3])}")
    return model


def _fill(model: ov.Model, constants: Mapping[str, Array]) -> set[str]:
    """Puts constants in the place of inputs; returns the names of those that it found."""
    found: set[str] = set()
    for parameter in list(model.get_parameters()):
        name = parameter.get_friendly_name()
        if name in constants:
            array = constants[name]
            # OpenVINO shares nothing that it could not write to, as a file of f32 that is mapped.
            constant = ov.op.Constant(array, shared_memory=array.flags.writeable)
            constant.set_friendly_name(name)
            parameter.output(0).replace(constant.output(0))
            model.remove_parameter(parameter)
            found.add(name)
    return found


def _always_adapt(model: ov.Model) -> None:
    """Puts the adapters' products in the place of the `If` that would leave them out."""
    for node in model.get_ordered_ops():
        if node.get_type_name() != "If":
            continue
        choice: Any = node
        plain = {inner.get_type_name() for inner in choice.get_function(1).get_ops()}
        if plain != {"Parameter", "Identity", "Result"}:
            raise ValueError(f"{node.get_friendly_name()} chooses between more than adapters")
        products = choice.get_function(0)
        parameters = products.get_parameters()
        for description in choice.get_input_descriptions(0):
            outer = node.input_value(description.input_index)
            parameters[description.body_parameter_index].output(0).replace(outer)
        node.output(0).replace(products.get_results()[0].input_value(0))


def _adapt_all_rows(model: ov.Model) -> None:
    """Takes out what gathers the rows that use an adapter, and what scatters their products."""
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Gather" and ROWS_NAME in node.input_value(1).get_names():
            node.output(0).replace(node.input_value(0))
        elif kind == "ScatterNDUpdate" and ROW_INDICES_NAME in node.input_value(1).get_names():
            total = ov.opset15.add(node.input_value(0), node.input_value(2))
            node.output(0).replace(total.output(0))


def _with_weights_as_inputs(content: bytes, constants: Mapping[str, Array]) -> bytes:
    """Returns an ONNX file whose initializers without content are inputs."""
    model = _message_class("Model").FromString(content)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in constants]
    for tensor in model.graph.initializer:
        if tensor.name in constants:
            value = model.graph.input.add(name=tensor.name)
            value.type.tensor_type.elem_type = _FLOAT
            for size in tensor.dims:
                value.type.tensor_type.shape.dim.add(dim_value=size)
    kept = [tensor.SerializeToString() for tensor in kept]
    del model.graph.initializer[:]
    for tensor in kept:
        model.graph.initializer.add().ParseFromString(tensor)
    return model.SerializeToString()


def _load_pool() -> descriptor_pool.DescriptorPool:
    """Returns a pool of its own: the package `onnx` registers the real messages in the default."""
    file = descriptor_pb2.FileDescriptorProto(name="onnx_part.proto", package="onnx_part")
    for message, fields in _FIELDS.items():
        target = file.message_type.add(name=message)
        for name, number, kind, repeated in fields:
            field = target.field.add(name=name, number=number)
            field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if isinstance(kind, str):
                field.type, field.type_name = _MESSAGE, f".onnx_part.{kind}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _load_pool()


def _message_class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"onnx_part.{name}"))
