"""From embeddings and noise to latents: the UNet, trained under a text encoder that stays as it is.

The UNet works on 8x8 latents, where 12 million parameters cost a CPU core 20 ms a row, forward and
backward. Text reaches it twice: pooled, through the time embedding into every block (scale and
shift), and word by word through cross-attention.
"""

# diffusers and transformers annotate loosely: `tuple[str]` for any tuple, outputs as bare tuples.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false
# ruff: noqa: S311 - pictures and prompts are drawn from seeds, not secrets

from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from .autoencoder import LATENT_CHANNELS
from .composition import Compositions
from .concepts import Concept
from .crew import Average, Crew, Progress
from .muon import Muon
from .prompts import COLOURS, ask
from .stopwatch import Budget
from .text import WIDTH, tokenize

_ROWS, _BATCHES = 12, 3
_PROMPT_DROPPED = 0.1
# Noise levels are drawn as u**lean: below 1, more of them high.
_NOISE_LEAN = 0.7
_CHANNELS = (160, 224)
_HEAD_CHANNELS = 32


class TextToImage(nn.Module):
    """What turns a prompt and noise into latents."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = unet


def new_unet() -> UNet2DConditionModel:
    """Returns the untrained UNet, 12.1 M parameters."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        # By an old misnomer diffusers reads this as the number of heads.
        attention_head_dim=tuple(width // _HEAD_CHANNELS for width in _CHANNELS),
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        time_embedding_dim=256,
        addition_embed_type="text",
        addition_embed_type_num_heads=WIDTH // _HEAD_CHANNELS,
    )


def new_scheduler() -> DDIMScheduler:
    """Returns the schedule of training and sampling; it ends in pure noise, so black is black."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        # Unused with trailing steps, but the pipeline warns about any other number.
        steps_offset=1,
    )


def train_text_to_image(
    model: TextToImage,
    tokenizer: CLIPTokenizer,
    concepts: list[Concept],
    pool: Compositions,
    latents: Tensor,
    budget: Budget,
    checkpoint: Path,
    report: Callable[[Progress], None],
    workers: int,
) -> Average:
    """Trains the model in place and returns the average of the UNet's weights.

    Args:
        model: Text encoder and UNet.
        tokenizer: Turns prompts into ids.
        concepts: What the pool's concept numbers mean.
        pool: Concept and colour of every row.
        latents: [row, 12, 8, 8], the pool's pictures, scaled to unit variance.
        budget: How long; the learning rate falls to zero at its end.
        checkpoint: Where the state goes every minute and is resumed from.
        report: Called every 25 updates.
        workers: How many single-threaded processes share the work.
    """
    model.unet.to(memory_format=torch.channels_last)
    # The fused CPU kernel's backward takes three times as long as plain matrix products here.
    model.unet.set_attn_processor(AttnProcessor())
    model.text_encoder.set_attn_implementation("eager")
    scheduler = new_scheduler()

    def loss_of(batch: int) -> Tensor:
        rng = Random(batch)
        torch.manual_seed(batch)
        rows = torch.randint(len(latents), (_ROWS,))
        prompts = [_caption(concepts, pool, row, rng) for row in rows.tolist()]
        context = _embed(model.text_encoder, tokenize(tokenizer, prompts))
        return _loss(model.unet, scheduler, latents[rows].float(), context)

    optimizer = Muon([model.unet], rate=0.02, adam_rate=2e-3)
    crew = Crew(model.unet, optimizer, loss_of, workers, _BATCHES)
    crew.train(budget, checkpoint, report)
    return crew.average


def _caption(concepts: list[Concept], pool: Compositions, row: int, rng: Random) -> str:
    if rng.random() < _PROMPT_DROPPED:
        return ""
    return ask(concepts[pool.concepts[row]], COLOURS[pool.colours[row]], rng)


@torch.no_grad()
def _embed(text_encoder: CLIPTextModel, token_ids: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return text_encoder(token_ids).last_hidden_state


def _loss(
    unet: UNet2DConditionModel, scheduler: DDIMScheduler, clean: Tensor, context: Tensor
) -> Tensor:
    steps = scheduler.config["num_train_timesteps"]
    # One draw from each of equal slices: every batch sees every noise level.
    slices = (torch.arange(len(clean)) + torch.rand(len(clean))) / len(clean)
    # What is drawn is decided in much noise; the last polish needs less practice.
    timesteps = (slices**_NOISE_LEAN * steps).long().clamp(max=steps - 1)
    noise = torch.randn_like(clean)
    noisy = scheduler.add_noise(clean, noise, timesteps).contiguous(
        memory_format=torch.channels_last
    )
    target = scheduler.get_velocity(clean, noise, timesteps)
    with torch.autocast("cpu", torch.bfloat16):
        velocity = unet(noisy, timesteps, context).sample
    return functional.mse_loss(velocity.float(), target)
