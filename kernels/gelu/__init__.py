"""GELU: the activation of a transformer's feed-forward layer without a gate."""

from .op import gelu

__all__ = ["gelu"]
