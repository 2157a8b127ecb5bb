"""LayerNorm: before every attention and feed-forward layer of a transformer."""

from .op import layer_norm

__all__ = ["layer_norm"]
