"""Kernels compiled ahead of time, and what their code does to memory. Imports triton when used."""

from .ahead_of_time import CompiledKernel, KernelVariant, compile_kernel
from .ptx import GlobalAccesses, argument_count, global_accesses

__all__ = [
    "CompiledKernel",
    "GlobalAccesses",
    "KernelVariant",
    "argument_count",
    "compile_kernel",
    "global_accesses",
]
