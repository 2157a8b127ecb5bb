"""Further sets of UNet weights, with random numbers, for folders of `random_models`."""

import json
from pathlib import Path
from typing import Any


def add_adapter(folder: Path, place: str = "adapters/student", seed: int = 1) -> None:
    """Writes a low-rank adapter to the folder's UNet."""
    import torch
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        targets = ["to_q", "to_v", "conv1"]
        unet.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    StableDiffusionPipeline.save_lora_weights(
        folder / place, unet_lora_layers=get_peft_model_state_dict(unet)
    )


def add_unet(folder: Path, place: str = "student_unet", scale: float = 0.5) -> None:
    """Writes a second UNet: the folder's own, its parameters scaled."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    for parameter in unet.parameters():
        parameter.data.mul_(scale)
    unet.save_pretrained(folder / place)


def write_manifest(folder: Path, **fields: Any) -> None:
    """Writes `sangsang.json`."""
    (folder / "sangsang.json").write_text(json.dumps(fields))
