"""An exported graph made whole: its weights and the model's adapters in a file beside it.

A build keeps weights out of the graph, because the model's folder has them. A server elsewhere has
no such folder. The adapters, which are inputs of the network here, become initialisers that are
still listed as inputs: ONNX Runtime then takes them for values that a call may replace and
computes with them as it does with inputs, in the same bits. As constants it would not.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

MODEL_NAME = "model.onnx"
WEIGHTS_NAME = "weights.bin"
_ALIGNMENT = 64


def write_whole_graph(
    graph: Path,
    weights: Mapping[str, NDArray[Any]],
    bank: Mapping[str, NDArray[Any]],
    target: Path,
) -> None:
    """Writes `model.onnx`, and beside it `weights.bin`, into a folder that exists.

    Args:
        graph: as it was built.
        weights: what it needs of the model's, in its own shapes.
        bank: the arrays of the model's adapters, by the inputs that they are for.
        target: where to.
    """
    model = onnx.load(str(graph), load_external_data=False)
    initializers = model.graph.initializer
    missing = [tensor for tensor in initializers if tensor.name in weights]
    missing.extend(initializers.add(name=name) for name in bank)
    with (target / WEIGHTS_NAME).open("wb") as stream:
        _move_out(missing, {**weights, **bank}, stream)
    onnx.save(model, str(target / MODEL_NAME))


def _move_out(
    tensors: Iterable[TensorProto], arrays: Mapping[str, NDArray[Any]], stream: BinaryIO
) -> None:
    """Writes the arrays one after the other, and notes in the tensors where."""
    for tensor in tensors:
        array = arrays[tensor.name]
        stream.write(bytes(-stream.tell() % _ALIGNMENT))
        offset = stream.tell()
        stream.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
        outside = TensorProto(
            name=tensor.name,
            data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
            data_location=TensorProto.EXTERNAL,
        )
        place = {"location": WEIGHTS_NAME, "offset": offset, "length": array.nbytes}
        for key, value in place.items():
            outside.external_data.add(key=key, value=str(value))
        tensor.CopyFrom(outside)
