"""Bridge between numpy arrays and the `Tensor` message of the stage services."""

from collections.abc import Sequence

import numpy as np

from sangsang.stages.v1alpha1 import tensor_pb2

from .engines.engine import Array
from .errors import FieldViolation, InvalidRequest

MAX_DIMENSION_COUNT = 8

_DTYPES: dict[tensor_pb2.DataType, np.dtype[np.generic]] = {
    tensor_pb2.DATA_TYPE_F32: np.dtype("<f4"),
    tensor_pb2.DATA_TYPE_F16: np.dtype("<f2"),
    tensor_pb2.DATA_TYPE_I64: np.dtype("<i8"),
    tensor_pb2.DATA_TYPE_U8: np.dtype("u1"),
}
_DATA_TYPES = {dtype: data_type for data_type, dtype in _DTYPES.items()}


def to_proto(array: Array) -> tensor_pb2.Tensor:
    """Returns the message of an array.

    Args:
        array: any shape; f32, f16, i64 or u8.

    Raises:
        ValueError: the dtype has no `DataType`.
    """
    data_type = _DATA_TYPES.get(array.dtype.newbyteorder("<"))
    if data_type is None:
        raise ValueError(f"no DataType for dtype {array.dtype}")
    little = np.ascontiguousarray(array, dtype=_DTYPES[data_type])
    return tensor_pb2.Tensor(data_type=data_type, shape=array.shape, data=little.tobytes())


def from_proto(
    tensor: tensor_pb2.Tensor,
    *,
    field: str,
    dtype: np.dtype[np.generic] | str = "f4",
    shape: Sequence[int | None] | None = None,
) -> Array:
    """Returns the array of a message, read-only.

    Args:
        tensor: the message.
        field: path of the message in its request, for errors.
        dtype: the dtype that it must have.
        shape: the size that each dimension must have; None where any is taken.

    Raises:
        InvalidRequest: naming `field.data_type`, `field.shape` or `field.data`.
    """
    violations = tensor_violations(tensor, field=field, dtype=dtype, shape=shape)
    if violations:
        raise InvalidRequest(violations)
    return np.frombuffer(tensor.data, dtype=_DTYPES[tensor.data_type]).reshape(tuple(tensor.shape))


def tensor_violations(
    tensor: tensor_pb2.Tensor,
    *,
    field: str,
    dtype: np.dtype[np.generic] | str = "f4",
    shape: Sequence[int | None] | None = None,
) -> list[FieldViolation]:
    """Returns what is wrong with a message; empty when `from_proto` would take it."""
    expected = np.dtype(dtype).newbyteorder("<")
    found = _DTYPES.get(tensor.data_type)
    if found != expected:
        names = f"{expected.name}, got {found.name if found else 'an unknown type'}"
        return [FieldViolation(f"{field}.data_type", f"must be {names}")]
    sizes = tuple(tensor.shape)
    if not _shape_fits(sizes, shape):
        wanted = "x".join("any" if size is None else str(size) for size in shape or (None,))
        return [FieldViolation(f"{field}.shape", f"must be {wanted}, got {list(sizes)[:10]}")]
    byte_count = expected.itemsize
    for size in sizes:
        byte_count *= size
    if len(tensor.data) != byte_count:
        text = f"must hold {byte_count} bytes, got {len(tensor.data)}"
        return [FieldViolation(f"{field}.data", text)]
    return []


def _shape_fits(sizes: tuple[int, ...], shape: Sequence[int | None] | None) -> bool:
    if not 0 < len(sizes) <= MAX_DIMENSION_COUNT or min(sizes) < 1:
        return False
    if shape is None:
        return True
    return len(shape) == len(sizes) and all(
        want in (None, size) for want, size in zip(shape, sizes, strict=True)
    )
