"""The student as a low-rank delta of its teacher: factored from the full student, saved as a LoRA.

Hu et al. (2021): W + B A. By the Eckart-Young theorem the truncated singular value decomposition of
the difference is the nearest delta of its rank; a last stage of distillation then mends what was
cut off. Linear layers and convolutions alike: a k x k convolution to `rank` channels, then 1 x 1.
"""

# diffusers and peft annotate loosely.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

_ADAPTER = "student"


def matrices(unet: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Returns the layers that a student may change, by name: all with a matrix.

    Norms and biases stay the teacher's: a low-rank delta could not carry their changes.
    """
    return {
        name: layer
        for name, layer in unet.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }


def add_adapter(unet: UNet2DConditionModel, rank: int) -> None:
    """Gives every layer an adapter of the rank, or of the most that the layer has."""
    ranks = {name: min(rank, *_matrix(layer).shape) for name, layer in matrices(unet).items()}
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=list(ranks),
        rank_pattern={_exactly(name): own for name, own in ranks.items() if own != rank},
        alpha_pattern={_exactly(name): own for name, own in ranks.items() if own != rank},
    )
    unet.add_adapter(config, adapter_name=_ADAPTER)


@torch.no_grad()
def factor(unet: UNet2DConditionModel, student: UNet2DConditionModel) -> float:
    """Fills the adapters of `unet` with the nearest delta to `student`.

    Returns:
        The share of the difference's energy, the sum of squares, that the ranks hold; 1 if all.
    """
    held, total = 0.0, 0.0
    wanted = matrices(student)
    for name, layer in unet.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        base: nn.Module = layer.get_base_layer()
        delta = _matrix(wanted[name]) - _matrix(base)
        down, up = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
        rank = len(down)
        left, values, right = torch.linalg.svd(delta.float(), full_matrices=False)
        root = values[:rank].sqrt()
        down.copy_((root[:, None] * right[:rank]).view_as(down))
        up.copy_((left[:, :rank] * root / layer.scaling[_ADAPTER]).view_as(up))
        held += values[:rank].square().sum().item()
        total += values.square().sum().item()
    return held / total if total else 1.0


def save_adapter(unet: UNet2DConditionModel, folder: Path) -> None:
    """Writes the adapter, in half precision, as `pipeline.load_lora_weights(folder)` reads it."""
    # peft's own names: diffusers reads them, and its older ones lose some layers on the way.
    state = get_peft_model_state_dict(unet, None, _ADAPTER)
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers={name: tensor.half().contiguous() for name, tensor in state.items()},
        unet_lora_adapter_metadata=unet.peft_config[_ADAPTER].to_dict(),
    )


def _matrix(layer: nn.Module) -> Tensor:
    return layer.weight.flatten(1)


def _exactly(name: str) -> str:
    # peft reads the keys as regular expressions that match a name's end.
    return "^" + name.replace(".", r"\.") + "$"
