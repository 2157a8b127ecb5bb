"""Engines on eager torch: the reference that exports are checked against.

It also runs what has not been built. On a GPU, where there is one, our kernels take the place of
diffusers' operations. torch, diffusers and transformers are imported only here and in `building/`,
and only when such an engine is made.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
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
    """One module as eager torch code on the first GPU, or on the CPU. Attributes: see `Engine`."""

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

        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if threads is not None:
            torch.set_num_threads(threads)
        self.name = folder.label(module)
        self.digest = folder.digest(module)
        self._signature = signature(folder, module)
        self._module: Any = load_module(folder, module).to(self._device)
        if self._device.type == "cuda":
            from .fused_modules import fuse

            fuse(self._module)
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
        feeds: list[Any] = [
            torch.from_numpy(np.array(array)).to(self._device) for array in checked.values()
        ]
        try:
            with torch.inference_mode(), _exact_convolutions():
                value = module(*feeds)
        except RuntimeError as exc:
            raise StageFailed(f"{self.name} failed in torch: {exc}") from exc
        return {self.outputs[0].name: value.cpu().numpy()}

    def close(self) -> None:
        """Frees the module."""
        self._module = None


def _exact_convolutions() -> AbstractContextManager[Any]:
    """Keeps cuDNN from rounding f32 to 10 bits, which it does unless told not to."""
    import torch

    if not torch.backends.cudnn.is_available():
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
