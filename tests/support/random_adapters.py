"""Random LoRAs of a folder's UNet, made by peft and saved by diffusers."""

import warnings
from pathlib import Path
from typing import Any

# Linear layers and convolutions of every kind that a UNet has.
EVERY_LAYER = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
    "proj_in",
    "proj_out",
    "time_emb_proj",
    "time_embedding.linear_1",
    "conv_in",
    "conv_out",
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
)
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def make_random_adapter(
    model: Path,
    folder: Path,
    *,
    seed: int = 0,
    targets: tuple[str, ...] = EVERY_LAYER,
    metadata: bool = True,
    old_names: bool = False,
    **config: Any,
) -> Path:
    """Writes a LoRA with random matrices and returns its folder.

    Args:
        model: diffusers folder that it is for.
        folder: where to write it.
        seed: of its matrices.
        targets: ends of the names of the layers that it changes.
        metadata: whether peft's configuration is saved with it.
        old_names: whether it is saved under diffusers' older names.
        config: fields of `LoraConfig`, e.g. `r`, `lora_alpha`, `rank_pattern`.
    """
    import torch
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from diffusers.training_utils import _collate_lora_metadata
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig, get_peft_model_state_dict

    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        unet = UNet2DConditionModel.from_pretrained(model / "unet")
        unet.add_adapter(LoraConfig(target_modules=list(targets), **{"r": 4, **config}))
        _fill(unet)
        state = get_peft_model_state_dict(unet)
        StableDiffusionPipeline.save_lora_weights(
            folder,
            unet_lora_layers=convert_state_dict_to_diffusers(state) if old_names else state,
            **(_collate_lora_metadata({"unet": unet}) if metadata else {}),
        )
    return folder


def _fill(unet: Any) -> None:
    # peft starts with zeros, which change nothing; these change each layer by about a tenth.
    import torch

    for name, parameter in unet.named_parameters():
        if ".lora_A." in name:
            fan_in = parameter[0].numel()
            parameter.data = torch.randn_like(parameter) / fan_in**0.5
        elif ".lora_B." in name:
            parameter.data = torch.randn_like(parameter) * 0.1 / parameter.shape[1] ** 0.5
