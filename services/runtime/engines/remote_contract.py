"""Whether what a server of the Open Inference Protocol serves is the module that is wanted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..open_inference.datatypes import datatype_of
from ..open_inference.descriptions import MOST_ROWS_NAME, ROW_COUNTS_NAME
from .engine import TensorSpec
from .signatures import Signature

# Of a protobuf message that is made at run time: a type checker cannot know its fields.
Proto = Any


def differences(wanted: Signature, digest: str, metadata: Proto, config: Proto) -> list[str]:
    """Returns what is wrong with a served model; nothing if it is the module.

    Args:
        wanted: the module's signature.
        digest: of the module's weights and configuration.
        metadata: the server's `ModelMetadataResponse`.
        config: the server's `ModelConfig`; None if it tells none.
    """
    optional = {tensor.name for tensor in config.input if tensor.optional} if config else set()
    found = [
        *_tensor_differences("input", wanted.inputs, metadata.inputs, optional),
        *_tensor_differences("output", wanted.outputs, metadata.outputs, set()),
    ]
    served = told(config, "digest") or digest
    if served != digest:
        found.append(f"its weights have the digest {served[:12]}, not {digest[:12]}")
    return found


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """How many rows a call to a served model may have.

    Attributes:
        most: at most so many; None for any number.
        exact: just one of these, ascending; none for any number.
    """

    most: int | None = None
    exact: tuple[int, ...] = ()

    def split(self, rows: int) -> list[int]:
        """Returns the rows of each call for a batch; more than it has if they must be filled up."""
        most = self.exact[-1] if self.exact else self.most or rows
        full, rest = divmod(rows, most)
        fitting = [count for count in self.exact if count >= rest] or [rest]
        return [most] * full + ([fitting[0]] if rest else [])


def batch_sizes(config: Proto) -> BatchSizes:
    """Returns the sizes of a call.

    Raises:
        ValueError: what the server tells of them is no list of numbers.
    """
    if not config:
        return BatchSizes()
    limits = [config.max_batch_size, *_numbers(config, MOST_ROWS_NAME)]
    return BatchSizes(max(limits) or None, _numbers(config, ROW_COUNTS_NAME))


def _numbers(config: Proto, name: str) -> tuple[int, ...]:
    text = told(config, name)
    numbers = tuple(sorted(int(number) for number in text.split(","))) if text else ()
    if any(number < 1 for number in numbers):
        raise ValueError(f"{name} is {text!r}")
    return numbers


def told(config: Proto, name: str) -> str:
    """Returns a parameter of a served model's configuration; empty if it tells none."""
    # A map field: reading a missing key of it would add it.
    return config.parameters[name].string_value if config and name in config.parameters else ""


def _tensor_differences(
    kind: str, wanted: Sequence[TensorSpec], served: Proto, optional: set[str]
) -> Iterator[str]:
    tensors = {tensor.name: tensor for tensor in served}
    for spec in wanted:
        tensor = tensors.pop(spec.name, None)
        if tensor is None:
            yield f"{kind} {spec.name} is missing"
            continue
        datatype = datatype_of(spec.dtype).name
        if tensor.datatype != datatype:
            yield f"{kind} {spec.name} is {tensor.datatype}, not {datatype}"
        if not _fits(spec.shape, tensor.shape):
            shown = [-1 if size is None else size for size in spec.shape]
            yield f"{kind} {spec.name} has shape {list(tensor.shape)}, not {shown}"
    for name in tensors:
        # A further output is not asked for; a further input would have to be given.
        if kind == "input" and name not in optional:
            yield f"{kind} {name} is not known"


def _fits(wanted: Sequence[int | None], served: Sequence[int]) -> bool:
    """Returns whether every size that the module takes is taken by the server."""
    return len(wanted) == len(served) and all(
        theirs in (-1, ours) for ours, theirs in zip(wanted, served, strict=True)
    )
