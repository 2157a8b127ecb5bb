"""The four modules of a diffusers folder as torch modules with the engines' own signatures.

diffusers and transformers return objects and take options; these wrappers take and return plain
tensors, so that the eager engine runs and the exporter traces exactly the same code.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 as everyone names it
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from ..errors import ModelNotReady
from ..models.folder import ModelFolder, ModuleName
from .adapter_bank import AdapterBank, bank_input_names


class TextEncoder(nn.Module):
    """Prompt tokens to embeddings."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        """Returns the last hidden state: [B, L, W], f32, for tokens [B, L], i64."""
        return self.model(input_ids, return_dict=False)[0]


class VaeEncoder(nn.Module):
    """Pictures to the mean and log variance of their latents."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.quant_conv = model.quant_conv

    def forward(self, sample: Tensor) -> Tensor:
        """Returns the moments: [B, 2*C, h, w], f32, for pictures [B, 3, H, W] in [-1, 1]."""
        moments = self.encoder(sample)
        return moments if self.quant_conv is None else self.quant_conv(moments)


class Unet(nn.Module):
    """Noisy latents to the model's prediction."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """Returns the prediction: [B, C, h, w], f32, for one timestep a row: [B], f32."""
        return self.model(sample, timestep, encoder_hidden_states, return_dict=False)[0]


class AdaptedUnet(nn.Module):
    """A UNet whose rows may each use low-rank adapters.

    Args:
        unet: what is adapted; its layers get hooks.
        bank: the adapters.
    """

    def __init__(self, unet: nn.Module, bank: AdapterBank) -> None:
        super().__init__()
        self.unet = unet
        self._scales: Tensor | None = None
        model: Any = unet.model
        device = next(model.parameters()).device
        matrices = {name: torch.from_numpy(a).to(device) for name, a in bank.arrays.items()}
        self._hooks = [
            model.get_submodule(layer).register_forward_hook(self._hook(layer, matrices))
            for layer in bank.layers
        ]

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, scales: Tensor
    ) -> Tensor:
        """Returns what `Unet` returns, for rows with the scales [B, slots], f32."""
        self._scales = scales
        return self.unet(sample, timestep, encoder_hidden_states)

    def detach(self) -> nn.Module:
        """Returns the UNet as it was."""
        for hook in self._hooks:
            hook.remove()
        return self.unet

    def _hook(self, layer: str, matrices: Mapping[str, Tensor]) -> Any:
        down, up, slot = (matrices[name] for name in bank_input_names(layer))

        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            assert self._scales is not None, "the hooks run within forward"
            scale = self._scales[:, slot]
            if isinstance(module, nn.Conv2d):
                padding: Any = module.padding
                low = F.conv2d(inputs[0], down, None, module.stride, padding, module.dilation)
                low = low * scale[:, :, None, None]
                return output + F.conv2d(low, up)
            between = (1,) * (inputs[0].ndim - 2)
            return output + (inputs[0] @ down * scale.reshape(len(scale), *between, -1)) @ up

        return add


class VaeDecoder(nn.Module):
    """Latents to pictures."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.post_quant_conv = model.post_quant_conv
        self.decoder = model.decoder

    def forward(self, latents: Tensor) -> Tensor:
        """Returns pictures: [B, 3, H, W], f32, for unscaled latents [B, C, h, w]."""
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents)


def load_module(folder: ModelFolder, module: ModuleName) -> nn.Module:
    """Returns a module of the folder in f32, for inference, on the CPU.

    Raises:
        ModelNotReady: diffusers or transformers cannot load it.
    """
    try:
        return _load(folder, module).eval().requires_grad_(False)
    # Both raise many kinds of error for a folder that they do not like.
    except Exception as exc:
        raise ModelNotReady(f"{folder.path}: {module} cannot be loaded: {exc}") from exc


def _load(folder: ModelFolder, module: ModuleName) -> nn.Module:
    path = str(folder.component_path(module))
    options: dict[str, Any] = {
        "torch_dtype": torch.float32,
        "use_safetensors": True,
        "local_files_only": True,
        "variant": _variant(folder, module),
    }
    if module == "text_encoder":
        options["dtype"] = options.pop("torch_dtype")
        return TextEncoder(CLIPTextModel.from_pretrained(path, **options))
    if module == "unet":
        return Unet(UNet2DConditionModel.from_pretrained(path, **options))
    vae = AutoencoderKL.from_pretrained(path, **options)
    return VaeEncoder(vae) if module == "vae_encoder" else VaeDecoder(vae)


def _variant(folder: ModelFolder, module: ModuleName) -> str | None:
    name = folder.weight_files(module)[0].name
    return next((v for v in ("fp16", "bf16") if f".{v}" in name), None)
