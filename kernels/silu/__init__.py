"""SiLU, or swish: the activation between the layers of a UNet."""

from .op import silu

__all__ = ["silu"]
