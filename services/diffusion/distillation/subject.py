"""The model to be distilled, opened: its parts, its schedule, and what draws with it."""

# diffusers and transformers annotate loosely: `tuple[str]` for any tuple, outputs as bare tuples.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportReturnType=false
# pyright: reportCallIssue=false

from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import Tensor

from ..evaluation.weights import BASE, open_pipeline, open_weights
from .networks import Conditions, GuidedDenoiser
from .trajectory import NoiseSchedule


class Subject:
    """A model folder on a device, ready to teach.

    Args:
        folder: a diffusers Stable Diffusion folder.
        device: where it computes.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.pipeline = _open(folder, device)
        self.unet: UNet2DConditionModel = self.pipeline.unet
        self.scheduler = DDIMScheduler.from_config(self.pipeline.scheduler.config)
        self.schedule = NoiseSchedule(self.scheduler, device)
        self._device = device
        self._empty = self._embeddings([""])

    def guided(self, guidance_scale: float) -> GuidedDenoiser:
        """Returns the original teacher, which takes no gradient."""
        self.unet.requires_grad_(False).eval()
        return GuidedDenoiser(self.unet, self.schedule, guidance_scale)

    def embed(self, prompts: list[str]) -> Conditions:
        """Returns the conditions of prompts, f32, on the device."""
        return Conditions(self._embeddings(prompts), self._empty)

    def latent_shape(self) -> tuple[int, int, int]:
        """Returns channels, height and width of the model's own size."""
        side = self.unet.config.sample_size
        return self.unet.config.in_channels, side, side

    def sampled(
        self, unet: UNet2DConditionModel, prompts: list[str], step_count: int
    ) -> list[Image.Image]:
        """Returns one picture a prompt, drawn by a student with DDIM."""
        parts = {**self.pipeline.components, "unet": unet.eval(), "scheduler": self.scheduler}
        pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        seeds = [torch.Generator().manual_seed(index) for index in range(len(prompts))]
        return pipeline(
            prompts, num_inference_steps=step_count, guidance_scale=1.0, generator=seeds
        ).images

    @torch.no_grad()
    def _embeddings(self, prompts: list[str]) -> Tensor:
        tokenizer, encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        tokens = tokenizer(
            prompts,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        # As it serves: whatever precision the UNets are trained in.
        with torch.autocast(self._device.type, enabled=False):
            return encoder(tokens.input_ids.to(self._device))[0].float()


def _open(folder: Path, device: torch.device) -> StableDiffusionPipeline:
    pipeline = open_pipeline(folder, open_weights(folder, BASE))
    if device.type == "cpu":
        # On a CPU: convolutions run faster over channels that lie together, and plain matrix
        # products beat the fused attention's backward pass three times.
        pipeline.unet.to(memory_format=torch.channels_last)
        pipeline.unet.set_attn_processor(AttnProcessor())
    pipeline.text_encoder.requires_grad_(False)
    pipeline.vae.requires_grad_(False)
    return pipeline.to(device)
