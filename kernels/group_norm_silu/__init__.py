"""GroupNorm with the SiLU that follows it: before every convolution of a UNet and a VAE."""

from .op import group_norm_silu

__all__ = ["group_norm_silu"]
