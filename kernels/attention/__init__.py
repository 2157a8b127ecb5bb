"""Attention of queries over keys, without their matrix in memory."""

from .op import attention

__all__ = ["attention"]
