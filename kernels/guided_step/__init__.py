"""Guidance and sampler step in one: the update that follows every UNet evaluation."""

from .op import guided_step

__all__ = ["guided_step"]
