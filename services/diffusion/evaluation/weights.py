"""Finds a tier's weights in a model folder and puts them into a diffusers pipeline.

`base` is the folder's own UNet. The table `weights` of `sangsang.json` says where others lie: an
adapter (`{"adapter": "adapters/student"}`) or a whole UNet (`{"unet": "student_unet"}`).
"""

# diffusers annotates loosely.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from ...runtime.building.quantizing.graph_unet import open_pipeline as open_folder_pipeline
from ...runtime.errors import ModelNotReady
from ...runtime.models.folder import MANIFEST_NAME, ModelFolder
from ...runtime.models.manifest import BASE_WEIGHTS, Manifest
from ...runtime.models.weights import find_weight_files

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

BASE = BASE_WEIGHTS
ADAPTER_STEM = "pytorch_lora_weights"
_UNET_STEM = "diffusion_pytorch_model"


@dataclass(frozen=True, slots=True)
class WeightSet:
    """Where a set of UNet weights lies.

    Attributes:
        kind: the folder's own, a low-rank adapter to them, or a whole UNet.
        files: the safetensors files that hold it.
    """

    kind: Literal["base", "adapter", "unet"]
    files: tuple[Path, ...]

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return self.files[0].parent


def open_weights(folder: Path, name: str) -> WeightSet:
    """Returns the set of weights that a tier calls `name`.

    Raises:
        ModelNotReady: the manifest has no such set, or its files are missing or pickle.
    """
    if name == BASE:
        return WeightSet("base", find_weight_files(folder / "unet", _UNET_STEM))
    entry = Manifest.read(ModelFolder.open(folder)).weights.get(name)
    if entry is None:
        raise ModelNotReady(
            f"{folder / MANIFEST_NAME}: weights.{name} must say where the weights lie, as "
            '{"adapter": "adapters/student"} or {"unet": "student_unet"}'
        )
    if entry.adapter is not None:
        return WeightSet("adapter", find_weight_files(folder / entry.path, ADAPTER_STEM))
    return WeightSet("unet", find_weight_files(folder / entry.path, _UNET_STEM))


def open_pipeline(folder: Path, weights: WeightSet) -> "StableDiffusionPipeline":
    """Returns the folder's pipeline with these weights in its UNet, computed in f32."""
    # Imported here: five seconds that a wrong argument should not cost.
    from diffusers import UNet2DConditionModel

    pipeline = open_folder_pipeline(ModelFolder.open(folder))
    if weights.kind == "unet":
        pipeline.unet = UNet2DConditionModel.from_pretrained(
            weights.folder, dtype=torch.float32, use_safetensors=True
        )
    if weights.kind == "adapter":
        pipeline.load_lora_weights(weights.folder, weight_name=weights.files[0].name)
        # Merged it computes the same and costs what a UNet costs; beside it, each layer would
        # cost two small products more, which says nothing about the model.
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    return pipeline


def keep_libraries_quiet() -> None:
    """Keeps diffusers and transformers from telling what they lack, and from drawing bars."""
    import diffusers.utils.logging
    import transformers.utils.logging

    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
