"""Low-rank adapters of a batch whose rows each have their own."""

from .op import lora_bank

__all__ = ["lora_bank"]
