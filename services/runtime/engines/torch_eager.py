"""Engines on eager torch: the reference that exports are checked against.

It also runs what has not been built. torch, diffusers and transformers are imported only here and
in `building/`, and only when such an engine is made.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import StageFailed
from ..models.folder import ModelFolder, ModuleName
from .adapter_bank import AdapterBank
from .engine import Array, TensorSpec
from .signatures import signature
from .validation import check_inputs

BACKEND = "torch"


class TorchEngine:
    """One module as eager torch code on the CPU. See `Engine` for the attributes."""

    backend = BACKEND
    precision = "f32"

    def __init__(
        self,
        folder: ModelFolder,
        module: ModuleName,
        *,
        threads: int | None = None,
        bank: AdapterBank | None = None,
    ) -> None:
        """Loads a module from the folder.

        Args:
            folder: the model.
            module: which module it is.
            threads: threads of torch in the whole process; None leaves them as they are.
            bank: adapters of the UNet.

        Raises:
            ModelNotReady: diffusers or transformers cannot load it.
        """
        import torch

        from .torch_modules import AdaptedUnet, load_module

        if threads is not None:
            torch.set_num_threads(threads)
        self.name = folder.label(module)
        self.digest = folder.digest(module)
        self._signature = signature(folder, module)
        self._module: Any = load_module(folder, module)
        if bank is not None:
            self._signature = bank.signature(self._signature)
            self._module = AdaptedUnet(self._module, bank)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._signature.outputs

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every output for a batch; see `Engine.infer`."""
        import torch

        module = self._module
        if module is None:
            raise StageFailed(f"{self.name} has been closed")
        checked = check_inputs(self._signature, inputs)
        # Copied: torch warns about arrays that cannot be written to, as those from the wire are.
        feeds: list[Any] = [torch.from_numpy(np.array(array)) for array in checked.values()]
        try:
            with torch.inference_mode():
                value = module(*feeds)
        except RuntimeError as exc:
            raise StageFailed(f"{self.name} failed in torch: {exc}") from exc
        return {self.outputs[0].name: value.numpy()}

    def close(self) -> None:
        """Frees the module."""
        self._module = None
