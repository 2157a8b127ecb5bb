"""Where each operation asks whether its kernel runs or its reference, and launches it."""

from .choice import FLOATS, runs_triton
from .launching import block_count, launch, next_power_of_two, row_warps
from .memory import dense
from .settings import KernelSettings, kernel_settings

__all__ = [
    "FLOATS",
    "KernelSettings",
    "block_count",
    "dense",
    "kernel_settings",
    "launch",
    "next_power_of_two",
    "row_warps",
    "runs_triton",
]
