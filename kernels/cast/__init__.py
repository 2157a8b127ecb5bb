"""Casts between floating point types, in one trip to memory."""

from .op import cast

__all__ = ["cast"]
