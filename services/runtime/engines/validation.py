"""Checks on the arrays that an engine is given, the same for every backend."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .engine import Array, TensorSpec
from .signatures import Signature


def check_inputs(signature: Signature, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """Returns the inputs in the signature's order, C-contiguous; zeros for those left out.

    Raises:
        ValueError: an input is missing, unknown, of another dtype or shape, or the batches differ.
    """
    names = [spec.name for spec in signature.inputs]
    missing = [s.name for s in signature.inputs if s.name not in inputs and not s.optional]
    unknown = sorted(set(inputs) - set(names))
    if missing or unknown:
        raise ValueError(
            f"inputs must be {', '.join(names)}; missing: {', '.join(missing) or 'none'}; "
            f"unknown: {', '.join(unknown) or 'none'}"
        )
    checked = {
        spec.name: _checked(spec, inputs[spec.name], signature)
        for spec in signature.inputs
        if spec.name in inputs
    }
    batches = {name: array.shape[0] for name, array in checked.items()}
    if len(set(batches.values())) > 1:
        raise ValueError(f"inputs have different batch sizes: {batches}")
    batch = next(iter(batches.values()))
    return {
        spec.name: checked[spec.name] if spec.name in checked else _zeros(spec, batch)
        for spec in signature.inputs
    }


def _zeros(spec: TensorSpec, batch: int) -> Array:
    return np.zeros([batch if size is None else size for size in spec.shape], spec.dtype)


def _checked(spec: TensorSpec, value: object, signature: Signature) -> Array:
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{spec.name} must be a numpy array, not {type(value).__name__}")
    if value.dtype != spec.dtype:
        raise ValueError(f"{spec.name} must be {spec.dtype}, not {value.dtype}")
    fits = value.ndim == len(spec.shape) and all(
        size >= 1 and expected in (None, size)
        for size, expected in zip(value.shape, spec.shape, strict=True)
    )
    if not fits:
        shown = ", ".join("any" if size is None else str(size) for size in spec.shape)
        raise ValueError(f"{spec.name} must have shape [{shown}], not {list(value.shape)}")
    multiple = signature.side_multiple
    if value.ndim == 4 and any(side % multiple for side in value.shape[2:]):
        raise ValueError(
            f"{spec.name} must have a height and width that are multiples of {multiple}, "
            f"not {value.shape[2]}x{value.shape[3]}"
        )
    if fault := range_fault(spec, value):
        raise ValueError(f"{spec.name} {fault}")
    return np.ascontiguousarray(value)


def range_fault(spec: TensorSpec, values: Array) -> str | None:
    """Returns what is wrong with the elements of an input; None if nothing is.

    A token that the vocabulary lacks would be the engine's failure, or its silence.
    """
    if spec.below is None or (values.min() >= 0 and values.max() < spec.below):
        return None
    return f"must be at least 0 and below {spec.below}"
