"""The protocol's element types and what each is in numpy and in a message."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Datatype:
    """One element type.

    Attributes:
        name: as in requests and metadata, e.g. `FP32`.
        dtype: the numpy dtype in this machine's byte order.
        contents_field: the field of `InferTensorContents` that holds it; None where there is none.
    """

    name: str
    dtype: np.dtype[Any]
    contents_field: str | None

    @property
    def config_name(self) -> str:
        """Returns its name in a model configuration."""
        return f"TYPE_{self.name}"


DATATYPES = (
    Datatype("BOOL", np.dtype(np.bool_), "bool_contents"),
    Datatype("INT8", np.dtype(np.int8), "int_contents"),
    Datatype("INT16", np.dtype(np.int16), "int_contents"),
    Datatype("INT32", np.dtype(np.int32), "int_contents"),
    Datatype("INT64", np.dtype(np.int64), "int64_contents"),
    Datatype("UINT8", np.dtype(np.uint8), "uint_contents"),
    Datatype("UINT16", np.dtype(np.uint16), "uint_contents"),
    Datatype("UINT32", np.dtype(np.uint32), "uint_contents"),
    Datatype("UINT64", np.dtype(np.uint64), "uint64_contents"),
    Datatype("FP16", np.dtype(np.float16), None),
    Datatype("FP32", np.dtype(np.float32), "fp32_contents"),
    Datatype("FP64", np.dtype(np.float64), "fp64_contents"),
)

_BY_NAME = {datatype.name: datatype for datatype in DATATYPES}
_BY_DTYPE = {datatype.dtype: datatype for datatype in DATATYPES}

# Known to the protocol and refused here, with what to do instead.
_REFUSED = {
    "BF16": "BF16 has no numpy form and is not served; send FP16 or FP32",
    "BYTES": "BYTES is not served: no engine takes strings",
}


def datatype_of(dtype: np.dtype[Any]) -> Datatype:
    """Returns the element type of a numpy dtype.

    Raises:
        ValueError: the protocol cannot carry it.
    """
    found = _BY_DTYPE.get(dtype.newbyteorder("="))
    if found is None:
        raise ValueError(f"the Open Inference Protocol cannot carry {dtype}")
    return found


def datatype_fault(name: str, expected: Datatype) -> str | None:
    """Returns what is wrong with the datatype of an input; None if it is the expected one."""
    if name == expected.name:
        return None
    if name in _REFUSED:
        return f"{_REFUSED[name]}; this input takes {expected.name}"
    if name in _BY_NAME:
        return f"expected {expected.name}, got {name}"
    return f"unknown datatype {name[:20]!r}; this input takes {expected.name}"
