"""The picture's short form: an AutoencoderKL with f = 8 and 12 channels, trained on compositions.

Its decoder bounds what the text-to-image model can show, so it learns first. A small KL term keeps
the latents smooth: what the UNet gets slightly wrong should still decode to something clean.
"""

# diffusers and transformers annotate loosely: `tuple[str]` for any tuple, outputs as bare tuples.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from .composition import Compositions
from .crew import Crew, Progress
from .muon import Muon
from .stopwatch import Budget

LATENT_CHANNELS = 12
_KL_WEIGHT = 0.001
_DECODER_NOISE = 0.1
_ROWS, _BATCHES = 8, 4
_ROWS_TO_ENCODE = 64


def new_autoencoder() -> AutoencoderKL:
    """Returns the untrained autoencoder; its shape is fixed by every published folder."""
    blocks = 4
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def train_autoencoder(
    pool: Compositions,
    budget: Budget,
    checkpoint: Path,
    report: Callable[[Progress], None],
    workers: int,
    seed: int = 1,
) -> AutoencoderKL:
    """Returns the trained autoencoder, its scaling factor set so that latents have unit variance.

    Args:
        pool: What to learn from; its last 512 rows are left for `reconstruction_psnr_db`.
        budget: How long; the learning rate falls to zero at its end.
        checkpoint: Where the state goes every minute and is resumed from.
        report: Called every 25 updates.
        workers: How many single-threaded processes share the work.
        seed: Fixes initialisation and the order of rows.
    """
    torch.manual_seed(seed)
    model = new_autoencoder()
    count = len(pool.pixels) - 512

    def loss_of(batch: int) -> Tensor:
        torch.manual_seed(batch)
        rows = np.random.default_rng((seed, batch)).integers(0, count, _ROWS)
        return _loss(model, to_unit_range(pool.pixels[rows]))

    optimizer = Muon([model], rate=0.02, adam_rate=2e-3)
    Crew(model, optimizer, loss_of, workers, _BATCHES).train(budget, checkpoint, report)
    model.register_to_config(scaling_factor=1 / _latent_deviation(model, pool))
    return model.eval()


def sharpen_decoder(
    model: AutoencoderKL,
    pool: Compositions,
    latents: Tensor,
    budget: Budget,
    checkpoint: Path,
    report: Callable[[Progress], None],
    workers: int,
) -> AutoencoderKL:
    """Returns the autoencoder with its decoder trained on, for latents that stay as they are.

    The UNet learns the latents of the encoder as it is; the decoder may still get better at them. A
    little noise stands in for what the UNet will get wrong.
    """
    decoder = nn.ModuleDict({"decoder": model.decoder, "narrow": model.post_quant_conv})
    scale = model.config["scaling_factor"]
    count = min(len(latents), len(pool.pixels) - 512)

    def loss_of(batch: int) -> Tensor:
        torch.manual_seed(batch)
        rows = torch.randint(count, (_ROWS,))
        noisy = latents[rows].float()
        noisy = (noisy + _DECODER_NOISE * torch.randn_like(noisy)) / scale
        with torch.autocast("cpu", torch.bfloat16):
            decoded = model.decode(noisy).sample
        return _difference(decoded.float() - to_unit_range(pool.pixels[rows.numpy()]))

    crew = Crew(decoder, Muon([decoder], 0.02, 1e-3), loss_of, workers, _BATCHES)
    crew.train(budget, checkpoint, report)
    crew.average.copy_to(decoder)
    return model.eval()


def to_unit_range(pixels: np.ndarray) -> Tensor:
    """Returns [row, 3, height, width] f32 in -1..1 from uint8 [row, height, width, 3]."""
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    return tensor.contiguous()


def _loss(model: AutoencoderKL, pictures: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        posterior = model.encode(pictures).latent_dist
        decoded = model.decode(posterior.sample()).sample
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return _difference(decoded.float() - pictures) + _KL_WEIGHT * kl


def _difference(error: Tensor) -> Tensor:
    # Edges carry the drawing; a plain L2 would rather blur them.
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.square().mean() + 0.5 * error.abs().mean() + 0.5 * edges


@torch.no_grad()
def _latent_deviation(model: AutoencoderKL, pool: Compositions) -> float:
    return model.encode(to_unit_range(pool.pixels[:1024])).latent_dist.mean.std().item()


@torch.no_grad()
def reconstruction_psnr_db(model: AutoencoderKL, pool: Compositions) -> float:
    """Returns the PSNR over the 512 pictures that training left out."""
    pictures = to_unit_range(pool.pixels[-512:])
    decoded = model.decode(model.encode(pictures).latent_dist.mode()).sample.clamp(-1, 1)
    squared_error = functional.mse_loss(decoded / 2, pictures / 2)
    return -10 * squared_error.log10().item()


def encode_pool(model: AutoencoderKL, pool: Compositions, workers: int) -> Tensor:
    """Returns the scaled latents of the pool's pictures, [row, 12, 8, 8] fp16."""
    scale = model.config["scaling_factor"]

    @torch.no_grad()
    def encode(start: int) -> Tensor:
        pictures = to_unit_range(pool.pixels[start : start + _ROWS_TO_ENCODE])
        with torch.autocast("cpu", torch.bfloat16):
            mode = model.encode(pictures).latent_dist.mode()
        return (mode.float() * scale).half()

    with ThreadPoolExecutor(workers) as threads:
        return torch.cat(list(threads.map(encode, range(0, len(pool.pixels), _ROWS_TO_ENCODE))))
