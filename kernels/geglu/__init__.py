"""GEGLU: the gated activation of a transformer's feed-forward layer."""

from .op import geglu

__all__ = ["geglu"]
