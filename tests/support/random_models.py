"""Diffusers folders with random weights, small enough to export in seconds.

`tiny` is the smallest folder that has every kind of layer; `sd15_like` has the shape family of
Stable Diffusion 1.5 (four levels, two layers a block, attention on three, f=8) in other widths.
Nothing is downloaded: the tokenizer is made here too.
"""

from pathlib import Path
from typing import Any, Literal, TypeAlias

Variant: TypeAlias = Literal["tiny", "sd15_like"]

START, END = "<|startoftext|>", "<|endoftext|>"
_MERGES = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("r", "e"), ("re", "d</w>")]

_TEXT: dict[Variant, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": 16,
        "hidden_act": "gelu",
    },
    "sd15_like": {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
    },
}
_UNET: dict[Variant, dict[str, Any]] = {
    "tiny": {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    },
    "sd15_like": {
        "sample_size": 8,
        "block_out_channels": (32, 64, 64, 64),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "attention_head_dim": 8,
        "norm_num_groups": 16,
    },
}
_VAE: dict[Variant, dict[str, Any]] = {
    "tiny": {"sample_size": 16, "block_out_channels": (8, 16), "norm_num_groups": 4},
    "sd15_like": {
        "sample_size": 64,
        "block_out_channels": (16, 16, 32, 32),
        "layers_per_block": 2,
        "norm_num_groups": 8,
    },
}


def make_random_model(
    path: Path,
    *,
    seed: int = 0,
    variant: Variant = "tiny",
    half: bool = False,
    max_shard_size: str = "10GB",
    unet: dict[str, Any] | None = None,
    vae: dict[str, Any] | None = None,
    scheduler: dict[str, Any] | None = None,
) -> Path:
    """Writes a Stable Diffusion folder with random weights and returns its path.

    Args:
        path: where to write it; made when absent.
        seed: of the weights. The same seed gives the same folder.
        variant: its shapes.
        half: whether the weights are stored in f16, under diffusers' `fp16` names.
        max_shard_size: weights beyond this are split into shards, e.g. `100KB`.
        unet: fields of the UNet's configuration to change.
        vae: fields of the VAE's configuration to change.
        scheduler: fields of the DDIM scheduler's configuration to change.
    """
    import torch
    from diffusers import StableDiffusionPipeline

    tokenizer = _make_tokenizer(_TEXT[variant]["max_position_embeddings"])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        networks = _make_networks(variant, tokenizer, unet or {}, vae or {})
    pipeline = StableDiffusionPipeline(
        **networks,
        tokenizer=tokenizer,
        scheduler=_make_scheduler(scheduler or {}),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    if half:
        pipeline = pipeline.to(torch.float16)
    pipeline.save_pretrained(
        path,
        safe_serialization=True,
        variant="fp16" if half else None,
        max_shard_size=max_shard_size,
    )
    return path


def _make_networks(
    variant: Variant, tokenizer: Any, unet: dict[str, Any], vae: dict[str, Any]
) -> dict[str, Any]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    text = _TEXT[variant]
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    levels = len({**_VAE[variant], **vae}["block_out_channels"])
    networks: dict[str, Any] = {
        "text_encoder": CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), **special, **text)),
        "unet": UNet2DConditionModel(
            **{**_UNET[variant], "cross_attention_dim": text["hidden_size"], **unet}
        ),
        "vae": AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            **{**_VAE[variant], **vae},
        ),
    }
    for network in networks.values():
        _perturb(network)
    return networks


def _make_scheduler(fields: dict[str, Any]) -> Any:
    from diffusers import DDIMScheduler

    defaults = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    return DDIMScheduler(**{**defaults, **fields})


def _perturb(model: Any) -> None:
    # Fresh norms are all ones and fresh biases all zeros: a graph that mixed them up would pass.
    import torch

    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(torch.randn_like(parameter) * 0.05)


def _make_tokenizer(token_limit: int) -> Any:
    """Returns a CLIP tokenizer over bytes with a handful of merges."""
    from transformers import CLIPTokenizer

    units = list(_byte_characters())
    words = [*units, *(f"{unit}</w>" for unit in units), *("".join(m) for m in _MERGES), START, END]
    return CLIPTokenizer(
        vocab={word: index for index, word in enumerate(words)},
        merges=_MERGES,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=token_limit,
    )


def _byte_characters() -> str:
    # The printable stand-ins that byte-level BPE uses for the 256 bytes.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return "".join(map(chr, printable)) + "".join(chr(256 + n) for n in range(len(others)))
