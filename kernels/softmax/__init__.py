"""Softmax over the last dimension."""

from .op import softmax

__all__ = ["softmax"]
