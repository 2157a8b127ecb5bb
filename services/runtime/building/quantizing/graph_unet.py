"""A graph in the place of a diffusers pipeline's UNet.

diffusers then draws as it always does, with its own loop, guidance and sampler, while every
evaluation of the UNet is the graph's: that is how calibration sees real inputs, and how quality is
measured of a graph that torch cannot run.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ...engines.adapter_bank import SCALE_NAME, AdapterBank
from ...errors import ModelNotReady
from ...models.folder import ModelFolder
from ...models.manifest import BASE_WEIGHTS

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )

Rows: TypeAlias = Mapping[str, NDArray[np.float32]]
Evaluate: TypeAlias = Callable[[Rows], NDArray[np.float32]]


def open_pipeline(folder: ModelFolder) -> "StableDiffusionPipeline":
    """Returns a folder's pipeline in f32, without checker and progress bar."""
    # Imported here: five seconds that a wrong argument should not cost.
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )

    # Folders that store only the variant `fp16` load nothing without its name.
    half = all(".fp16." in file.name for file in folder.weight_files("unet"))
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder.path,
        safety_checker=None,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        variant="fp16" if half else None,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def evaluate_with(
    pipeline: "StableDiffusionPipeline", evaluate: Evaluate, scales: NDArray[np.float32] | None
) -> None:
    """Puts a graph in the place of a pipeline's UNet.

    Args:
        pipeline: what draws.
        evaluate: returns the prediction `[rows, C, h, w]` for the inputs of rows, by name.
        scales: of each adapter, `[slots]`; None for a graph that takes none.
    """

    def forward(
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        **_: object,
    ) -> tuple[torch.Tensor]:
        count = len(sample)
        rows = {
            "sample": sample.numpy(),
            "timestep": timestep.to(torch.float32).expand(count).numpy(),
            "encoder_hidden_states": encoder_hidden_states.numpy(),
        }
        if scales is not None:
            rows[SCALE_NAME] = np.tile(scales, (count, 1))
        return (torch.from_numpy(evaluate({n: np.ascontiguousarray(a) for n, a in rows.items()})),)

    unet: Any = pipeline.unet
    unet.forward = forward


def adapter_scales(bank: AdapterBank | None, weights: str) -> NDArray[np.float32] | None:
    """Returns the scale of each adapter, `[slots]`, for a set of weights; None without adapters.

    Raises:
        ModelNotReady: the weights are neither the UNet's own nor one of its adapters.
    """
    slots = () if bank is None else bank.slot_names
    if weights not in (BASE_WEIGHTS, *slots):
        raise ModelNotReady(f"the weights {weights!r} are another UNet, not an adapter of this one")
    if bank is None:
        return None
    return np.array([name == weights for name in slots], np.float32)
