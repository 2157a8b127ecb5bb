"""Several low-rank adapters of one UNet side by side, as inputs of its network.

Every adapter is a slot. A layer's matrices of all slots lie next to each other, and each row of a
batch has a scale for every slot, so rows of the UNet itself, of an adapter or of a mix of several
share an evaluation: `h = x @ [A1..An]; h *= scale[row]; y = x @ W + h @ [B1; ..; Bn]`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelNotReady
from ..models.adapters import Adapter, LowRank, read_adapters
from ..models.folder import ModelFolder
from ..models.weights import WeightStore
from .engine import Array, TensorSpec
from .signatures import Signature

SCALE_NAME = "adapter_scale"
# Values inside the network: the rows that use an adapter, `[used]` and `[used, 1]`.
ROWS_NAME, ROW_INDICES_NAME = "adapter_rows", "adapter_row_indices"
# A matrix product with a single column is computed by other code, whose bits depend on the batch.
_MIN_WIDTH = 2


def bank_input_names(layer: str) -> tuple[str, str, str]:
    """Returns the names of an adapted layer's inputs: both matrices, and each column's slot."""
    return f"adapter.{layer}.down", f"adapter.{layer}.up", f"adapter.{layer}.slot"


class AdapterBank:
    """Adapters laid out for the network.

    The widths (a layer's ranks, summed over the slots) differ from layer to layer.

    Attributes:
        slot_names: name of the adapter in each slot.
        layers: the adapted layers, sorted.
        arrays: inputs of the network by name. For each layer `down`, `[in, width]` f32 of a linear
            layer or `[width, in, k, k]` of a convolution; `up`, `[width, out]` or
            `[out, width, 1, 1]`; `slot`, `[width]` i64.

    Args:
        adapters: at least one, in the order of their slots.
        store: weights of the UNet.
        layers: the layers that the network takes matrices for; None for those that the adapters
            have.

    Raises:
        ModelNotReady: an adapter changes another layer.
    """

    def __init__(
        self, adapters: Sequence[Adapter], store: WeightStore, layers: Sequence[str] | None = None
    ) -> None:
        present = {layer for adapter in adapters for layer in adapter.layers}
        self.slot_names = tuple(adapter.name for adapter in adapters)
        self.layers = tuple(sorted(present if layers is None else layers))
        if others := sorted(present - set(self.layers)):
            raise ModelNotReady(f"the network was built without a bank for {', '.join(others[:3])}")
        self.arrays: dict[str, NDArray[Any]] = {}
        for layer in self.layers:
            shape = store.tensors[f"{layer}.weight"].shape
            parts = [adapter.layers.get(layer) for adapter in adapters]
            arrays = _lay_out(parts, shape)
            self.arrays.update(zip(bank_input_names(layer), arrays, strict=True))

    def signature(self, plain: Signature) -> Signature:
        """Returns the UNet's signature with the scales added, which may be left out."""
        slots = len(self.slot_names)
        spec = TensorSpec(SCALE_NAME, np.dtype(np.float32), (None, slots), optional=True)
        return Signature((*plain.inputs, spec), plain.outputs, plain.side_multiple)


def accompany_adapted(feeds: Mapping[str, Array], taken: Signature) -> Mapping[str, Array]:
    """Returns a UNet's inputs, with a further row where a single row that uses adapters needs one.

    Where some layer sees one token of each row, the bank's products are computed by other code
    than with more, in other bits. The row comes last and is like the one that it accompanies; its
    outputs are nobody's.
    """
    sample, context = feeds["sample"], feeds["encoder_hidden_states"]
    smallest = sample.shape[2] == sample.shape[3] == taken.side_multiple
    if not smallest and context.shape[1] > 1:
        return feeds
    adapted = np.flatnonzero(np.any(feeds[SCALE_NAME] != 0, axis=1))
    if len(adapted) != 1:
        return feeds
    return {name: np.concatenate([array, array[adapted]]) for name, array in feeds.items()}


def open_bank(folder: ModelFolder) -> AdapterBank | None:
    """Returns the bank of a model's adapters; None when it has none.

    Raises:
        ModelNotReady: an adapter is damaged, or does not fit the UNet.
    """
    adapters = read_adapters(folder)
    return AdapterBank(adapters, folder.weights("unet")) if adapters else None


def _lay_out(
    parts: Sequence[LowRank | None], shape: tuple[int, ...]
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Returns a layer's `down`, `up` and `slot`; its weight's shape tells its kind."""
    slots = [slot for slot, part in enumerate(parts) if part for _ in range(part.rank)]
    padding = max(_MIN_WIDTH - len(slots), 0)
    zeros = LowRank(
        np.zeros((padding, *shape[1:]), np.float32),
        np.zeros((shape[0], padding, *(1,) * (len(shape) - 2)), np.float32),
    )
    columns = [*(part for part in parts if part), zeros]
    down = np.concatenate([part.down for part in columns], axis=0)
    up = np.concatenate([part.up for part in columns], axis=1)
    if len(shape) == 2:
        down, up = down.T, up.T
    slot = np.array([*slots, *[0] * padding], np.int64)
    return np.ascontiguousarray(down), np.ascontiguousarray(up), slot
