"""Networks without weights: fake tensors have a shape and no content, so any size fits any machine.

From the configurations of a model's folder, or of a published architecture.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ...engines.signatures import signature
from ...engines.torch_modules import TextEncoder, Unet, VaeDecoder, VaeEncoder
from ...models.folder import ModelFolder, ModuleName
from ..export import export_at

# `unet/config.json` of the published models, as far as it decides shapes.
_SD15: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
_SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {"sd15": _SD15, "sdxl": _SDXL}
_VAE_SCALE = 8
_TOKEN_COUNT = 77
# What SDXL's UNet is told besides the text: sizes before and after cropping, and where it began.
_SIZE_COUNT = 6


class BadSize(ValueError):
    """No picture of this size is made by the model."""


class SdxlUnet(nn.Module):
    """A UNet that is told a pooled text and six sizes too, as SDXL's."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, sample: Tensor, timestep: Tensor, states: Tensor, pooled: Tensor, sizes: Tensor
    ) -> Tensor:
        """Returns the prediction: [B, C, h, w], for texts [B, L, W], [B, V] and sizes [B, 6]."""
        added = {"text_embeds": pooled, "time_ids": sizes}
        return self.model(sample, timestep, states, added_cond_kwargs=added, return_dict=False)[0]


@dataclass(frozen=True, slots=True)
class Subject:
    """A network whose traffic is asked for, not made yet.

    Attributes:
        name: for titles, e.g. `sd15 unet`.
        make: returns the network and its inputs by name; called among fake tensors.
        output: name of what it returns.
    """

    name: str
    make: Callable[[], tuple[nn.Module, dict[str, Tensor]]]
    output: str

    def graph(self) -> tuple[ir.Model, tuple[str, ...]]:
        """Returns the plain graph at these sizes, and its weights' names.

        Raises:
            ExportFailed: it cannot be exported.
        """
        # The exporter turns numbers of the network's code into tensors, which need content.
        with FakeTensorMode(allow_non_fake_inputs=True):
            network, inputs = self.make()
            return export_at(network.eval(), inputs, self.output)


def architecture_size_px(name: str) -> int:
    """Returns the side of the pictures that a published architecture was trained on."""
    return int(ARCHITECTURES[name]["sample_size"]) * _VAE_SCALE


def published(name: str, size_px: int, batch: int) -> Subject:
    """Returns the UNet of a published architecture.

    Args:
        name: one of `ARCHITECTURES`.
        size_px: width and height of the picture.
        batch: rows.

    Raises:
        BadSize: the size does not halve evenly at every level.
    """
    config = ARCHITECTURES[name]
    _check_size(name, size_px, _VAE_SCALE * 2 ** (len(config["block_out_channels"]) - 1))
    side = size_px // _VAE_SCALE

    def make() -> tuple[nn.Module, dict[str, Tensor]]:
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        inputs = {
            "sample": torch.empty(batch, 4, side, side),
            "timestep": torch.empty(batch),
            "encoder_hidden_states": torch.empty(
                batch, _TOKEN_COUNT, config["cross_attention_dim"]
            ),
        }
        model = UNet2DConditionModel(**config)
        if config.get("addition_embed_type") is None:
            return Unet(model), inputs
        sizes = _SIZE_COUNT * config["addition_time_embed_dim"]
        width = config["projection_class_embeddings_input_dim"] - sizes
        inputs |= {"pooled": torch.empty(batch, width), "sizes": torch.empty(batch, _SIZE_COUNT)}
        return SdxlUnet(model), inputs

    return Subject(f"{name} unet", make, "out_sample")


def of_folder(folder: ModelFolder, module: ModuleName, size_px: int, batch: int) -> Subject:
    """Returns a module of a model; its weights are not read, and its adapters are left out.

    Args:
        folder: the model.
        module: which module.
        size_px: width and height of the picture.
        batch: rows.

    Raises:
        BadSize: the size is none of the model's.
    """
    _check_size(folder.model_id, size_px, folder.size_multiple_px)
    wanted = signature(folder, module)
    side = size_px if module == "vae_encoder" else size_px // folder.vae_scale
    free = {0: batch, 1: folder.token_limit, 2: side, 3: side}

    def make() -> tuple[nn.Module, dict[str, Tensor]]:
        inputs: dict[str, Tensor] = {}
        for spec in wanted.inputs:
            shape = [free[axis] if size is None else size for axis, size in enumerate(spec.shape)]
            dtype = torch.int64 if spec.dtype.kind == "i" else torch.float32
            inputs[spec.name] = torch.zeros(shape, dtype=dtype)
        return _network(folder, module), inputs

    return Subject(f"{folder.model_id} {module}", make, wanted.outputs[0].name)


def _network(folder: ModelFolder, module: ModuleName) -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    config = dict(folder.config(module))
    if module == "text_encoder":
        # Folders of old name the class in it, and the precision of the file.
        fields = {k: v for k, v in config.items() if k not in ("architectures", "dtype")}
        return TextEncoder(CLIPTextModel(CLIPTextConfig(**fields)))
    if module == "unet":
        return Unet(UNet2DConditionModel.from_config(config))
    vae = AutoencoderKL.from_config(config)
    return VaeEncoder(vae) if module == "vae_encoder" else VaeDecoder(vae)


def _check_size(name: str, size_px: int, multiple_px: int) -> None:
    if size_px < 1 or size_px % multiple_px:
        raise BadSize(
            f"{name} makes pictures whose sides are multiples of {multiple_px} px, not {size_px}"
        )
