"""Tensors of a request to arrays, and arrays to the tensors of a response.

Nothing is allocated from a shape that a caller sends: the length of the data it sent must match the
shape first. The arithmetic is Python's, which does not wrap, so a shape such as [1, 2^62] asks for
more bytes than anyone sent and is refused.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..engines.engine import Array, TensorSpec
from ..engines.validation import range_fault
from ..errors import FieldViolation, InvalidRequest, StageFailed
from .checks import refuse
from .datatypes import Datatype, datatype_fault, datatype_of
from .messages import Proto
from .served_engine import ServedEngine

# Typed contents are converted one element at a time, on the event loop: at this size in 15 ms.
MAX_TYPED_ELEMENTS = 2**18

# What protobuf holds the narrow integers in.
_WIDE_DTYPES = {"int_contents": np.dtype(np.int32), "uint_contents": np.dtype(np.uint32)}


def decode_inputs(request: Proto, served: ServedEngine) -> dict[str, Array]:
    """Returns an array for each input of a request whose structure was checked.

    The arrays are copies: C-contiguous, writable and in this machine's byte order.

    Raises:
        InvalidRequest: names every input that does not fit.
    """
    specs = {spec.name: spec for spec in served.engine.inputs}
    refuse(
        violation
        for index, tensor in enumerate(request.inputs)
        for violation in _form_violations(index, tensor, specs[tensor.name], served)
    )
    refuse(_batch_violations(request.inputs, served))
    refuse(
        violation
        for index, tensor in enumerate(request.inputs)
        for violation in _data_violations(index, tensor, specs[tensor.name], request)
    )
    arrays = {
        tensor.name: _decode(index, tensor, specs[tensor.name], request)
        for index, tensor in enumerate(request.inputs)
    }
    refuse(
        FieldViolation(f"inputs[{index}]", f"every element {fault}")
        for index, tensor in enumerate(request.inputs)
        if (fault := range_fault(specs[tensor.name], arrays[tensor.name]))
    )
    return arrays


def encode_outputs(
    response: Proto, outputs: Mapping[str, Array], specs: Sequence[TensorSpec]
) -> None:
    """Adds the outputs of `specs` to a response, as raw contents.

    Raises:
        StageFailed: the engine left one out or returned another dtype.
    """
    for spec in specs:
        array = outputs.get(spec.name)
        if array is None or array.dtype != spec.dtype:
            found = "nothing" if array is None else str(array.dtype)
            raise StageFailed(f"output {spec.name} should be {spec.dtype}, the engine gave {found}")
        tensor = response.outputs.add(name=spec.name, datatype=datatype_of(spec.dtype).name)
        tensor.shape.extend(array.shape)
        little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
        response.raw_output_contents.append(little_endian.tobytes())


def _form_violations(
    index: int, tensor: Proto, spec: TensorSpec, served: ServedEngine
) -> Iterator[FieldViolation]:
    fault = datatype_fault(tensor.datatype, datatype_of(spec.dtype))
    if fault:
        yield FieldViolation(f"inputs[{index}].datatype", fault)
    fault = _shape_fault(tensor.shape, spec.shape, served.max_batch_size)
    if fault:
        yield FieldViolation(f"inputs[{index}].shape", fault)


def _shape_fault(
    shape: Sequence[int], expected: Sequence[int | None], max_batch_size: int
) -> str | None:
    """Returns what is wrong with a shape; None if nothing is."""
    if len(shape) != len(expected):
        return f"expected {len(expected)} dimensions, got {len(shape)}"
    for axis, (size, wanted) in enumerate(zip(shape, expected, strict=True)):
        if size < 1:
            return f"dimension {axis} is {size}, must be at least 1"
        if wanted is not None and size != wanted:
            return f"dimension {axis} is {size}, must be {wanted}"
    if max_batch_size and shape[0] > max_batch_size:
        return f"the batch is {shape[0]}, must be at most {max_batch_size}"
    return None


def _batch_violations(tensors: Proto, served: ServedEngine) -> Iterator[FieldViolation]:
    if not served.batch_rank:
        return
    for index, tensor in enumerate(tensors):
        if tensor.shape[0] != tensors[0].shape[0]:
            yield FieldViolation(
                f"inputs[{index}].shape",
                f"the batch is {tensor.shape[0]}, but {tensors[0].name} has {tensors[0].shape[0]}",
            )


def _data_violations(
    index: int, tensor: Proto, spec: TensorSpec, request: Proto
) -> Iterator[FieldViolation]:
    element_count = math.prod(tensor.shape)
    if not request.raw_input_contents:
        fault = _typed_fault(tensor, datatype_of(spec.dtype), element_count)
        if fault:
            yield FieldViolation(f"inputs[{index}].contents", fault)
        return
    if tensor.HasField("contents"):
        yield FieldViolation(f"inputs[{index}].contents", "typed and raw contents given together")
    expected, found = element_count * spec.dtype.itemsize, len(request.raw_input_contents[index])
    if found != expected:
        yield FieldViolation(
            f"raw_input_contents[{index}]", f"expected {expected} bytes, got {found}"
        )


def _typed_fault(tensor: Proto, datatype: Datatype, element_count: int) -> str | None:
    """Returns what is wrong with typed contents, apart from the elements; None if nothing is."""
    if datatype.contents_field is None:
        return f"{datatype.name} has no typed form; send raw_input_contents"
    others = {field.name for field, _ in tensor.contents.ListFields()} - {datatype.contents_field}
    if others:
        return f"{datatype.name} belongs in {datatype.contents_field}, not {min(others)}"
    found = len(getattr(tensor.contents, datatype.contents_field))
    if found != element_count:
        return f"expected {element_count} elements, got {found}"
    if found > MAX_TYPED_ELEMENTS:
        return f"typed contents hold at most {MAX_TYPED_ELEMENTS} elements; send raw_input_contents"
    return None


def _decode(index: int, tensor: Proto, spec: TensorSpec, request: Proto) -> Array:
    datatype = datatype_of(spec.dtype)
    if request.raw_input_contents:
        flat = _decode_raw(request.raw_input_contents[index], datatype)
    else:
        flat = _decode_typed(index, tensor, datatype)
    return flat.reshape(tuple(tensor.shape))


def _decode_raw(data: bytes, datatype: Datatype) -> Array:
    if datatype.dtype == np.bool_:
        # A byte other than 0 and 1 is no valid bool in memory; any of them means true.
        return np.frombuffer(data, np.uint8) != 0
    little_endian = np.frombuffer(data, datatype.dtype.newbyteorder("<"))
    return little_endian.astype(datatype.dtype)


def _decode_typed(index: int, tensor: Proto, datatype: Datatype) -> Array:
    """Returns the elements of checked typed contents.

    Raises:
        InvalidRequest: an element is out of the datatype's range.
    """
    field = datatype.contents_field or ""
    wide_dtype: np.dtype[Any] = _WIDE_DTYPES.get(field, datatype.dtype)
    values = getattr(tensor.contents, field)
    wide: Array = np.fromiter(values, wide_dtype, count=len(values))
    narrow = wide.astype(datatype.dtype)
    if not np.array_equal(narrow, wide, equal_nan=datatype.dtype.kind == "f"):
        description = f"an element is out of the range of {datatype.name}"
        raise InvalidRequest([FieldViolation(f"inputs[{index}].contents", description)])
    return narrow
