"""An engine that TensorRT or TensorRT-RTX built, deserialised: what all its lanes share.

A serialised engine is code for the GPU. It is deserialised only after its digest was checked, and
used only if its inputs, outputs and profiles are those that it was asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ModelNotReady
from .adapter_bank import AdapterBank
from .cuda_device import CudaDevice
from .precisions import Precision
from .signatures import Signature
from .tensor_rt_sizes import Profile, bank_shapes


class Plan:
    """A deserialised engine with its adapters.

    Attributes:
        name: what it computes, e.g. `unet`.
        digest: of the weights and configuration that it was built from.
        backend: e.g. `tensorrt`.
        precision: what its products compute in.
        title: the library's name, for messages.
        library: the library's module.
        engine: its `ICudaEngine`, which any number of contexts may use.
        signature: what a call takes and gives.
        profiles: the sizes that it takes, narrow ones first.
        fixed: inputs that every call has alike, on the GPU: the adapters' matrices.
        captures: whether its executions may be captured as CUDA graphs.

    Args:
        name: see above.
        digest: see above.
        backend: see above.
        precision: see above.
        title: see above.
        library: see above.
        content: the serialised engine.
        signature: see above.
        profiles: see above.
        bank: the adapters, if it was built for some.
        captures: see above.
        device: the GPU that it is for.
        remedy: what to do when it cannot be loaded.

    Raises:
        ModelNotReady: the library does not take it, or it is another engine.
    """

    def __init__(
        self,
        *,
        name: str,
        digest: str,
        backend: str,
        precision: Precision,
        title: str,
        library: Any,
        content: bytes,
        signature: Signature,
        profiles: Sequence[Profile],
        bank: AdapterBank | None,
        captures: bool,
        device: CudaDevice,
        remedy: str,
    ) -> None:
        self.name, self.digest, self.backend, self.title = name, digest, backend, title
        self.precision: Precision = precision
        self.library, self.signature, self.profiles = library, signature, tuple(profiles)
        self.captures = captures
        # The engine uses both as long as it lives.
        self._logger = library.Logger(library.Logger.WARNING)
        self._runtime = library.Runtime(self._logger)
        self.engine: Any = self._runtime.deserialize_cuda_engine(content)
        if self.engine is None:
            raise ModelNotReady(f"{title} cannot load the engine of {name}; {remedy}")
        if difference := self._difference(set(bank_shapes(bank))):
            raise ModelNotReady(f"{name} was built as another engine: {difference}; {remedy}")
        self.fixed: Mapping[str, Any] = {
            name: device.upload(array.astype(np.float16) if array.dtype.kind == "f" else array)
            for name, array in (bank.arrays if bank else {}).items()
        }

    @property
    def most_rows(self) -> int:
        """Rows of the largest execution."""
        first = self.signature.inputs[0].name
        return max(profile[first][2][0] for profile in self.profiles)

    def profile_for(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Returns the narrowest profile that takes inputs of some shapes, their rows padded.

        Raises:
            ValueError: there is none.
        """
        for index, profile in enumerate(self.profiles):
            if all(_fits(shape, *profile[name][::2]) for name, shape in shapes.items()):
                return index
        shown = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ValueError(
            f"the engine of {self.name} was built for the sizes of the model's manifest, not for "
            f"{shown}"
        )

    def rows_at(self, profile: int, rows: int) -> int:
        """Returns the rows that an execution at a profile has for some rows of a call."""
        least = self.profiles[profile][self.signature.inputs[0].name][0]
        return max(rows, least[0])

    def _difference(self, fixed: set[str]) -> str:
        modes = self.library.TensorIOMode
        found: dict[Any, set[str]] = {modes.INPUT: set(), modes.OUTPUT: set()}
        for index in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(index)
            found[self.engine.get_tensor_mode(name)].add(name)
        inputs = {spec.name for spec in self.signature.inputs} | fixed
        outputs = {spec.name for spec in self.signature.outputs}
        for what, actual, wanted in (
            ("inputs", found[modes.INPUT], inputs),
            ("outputs", found[modes.OUTPUT], outputs),
        ):
            if actual != wanted:
                return f"its {what} differ by {', '.join(sorted(actual ^ wanted)[:3])}"
        count = self.engine.num_optimization_profiles
        return "" if count == len(self.profiles) else f"it has {count} profiles"


def _fits(shape: Sequence[int], least: Sequence[int], most: Sequence[int]) -> bool:
    """Tells whether a shape is within a range; the rows need only not be too many."""
    if len(shape) != len(most) or shape[0] > most[0]:
        return False
    sides = zip(shape[1:], least[1:], most[1:], strict=True)
    return all(low <= size <= high for size, low, high in sides)
