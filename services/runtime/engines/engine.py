"""The engine boundary: named tensors in, named tensors out.

A stage knows its model only through this protocol, so a backend (ONNX Runtime, torch, TensorRT, a
remote inference server) can be exchanged without the stage noticing. Engines know nothing of
prompts, pictures or gRPC.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype and shape of one input or output.

    Attributes:
        name: as in the exported graph, e.g. `sample`.
        dtype: numpy dtype of the elements.
        shape: size of each dimension; None where any size is taken. The first is the batch.
        optional: whether it may be left out, which means zeros.
        below: what every element is below, and at least 0; None where any value is taken.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    optional: bool = False
    below: int | None = None


class Described(Protocol):
    """What is known of a network, whether it is loaded here or not.

    Attributes:
        backend: what runs it, e.g. `onnxruntime`.
        precision: numeric precision of the computation, e.g. `f32`.
        digest: sha256 of the weights and configuration it was built from, in hex.
        inputs: specification of each input, in the graph's order.
        outputs: specification of each output, in the graph's order.
    """

    @property
    def backend(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...


class Engine(Described, Protocol):
    """One compiled network.

    Attributes:
        name: what it computes, e.g. `unet`; also its name over the Open Inference Protocol.
    """

    @property
    def name(self) -> str: ...

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every output for a batch. Blocks: call it on a worker thread.

        Args:
            inputs: one C-contiguous array for each input, of its dtype and shape; optional ones
                may be left out.

        Raises:
            ValueError: an input is missing, unknown or of another dtype or shape.
            StageFailed: the backend failed.
        """
        ...

    def close(self) -> None:
        """Frees the memory that the engine holds; it must not be used afterwards."""
        ...


def padding_row_count(engine: Engine) -> int:
    """Returns the rows that an engine has computed beyond those of its callers, to fill up a size.

    Engines that take any batch need not have this attribute.
    """
    return getattr(engine, "padding_row_count", 0)
