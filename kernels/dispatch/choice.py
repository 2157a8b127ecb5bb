"""Triton or the reference: one decision for every operation, made for each call and logged once.

Triton is imported only when a tensor is where a kernel could run, or when the setting asks for it.
"""

from functools import cache
from importlib.util import find_spec

import structlog
import torch
from torch import Tensor

from .settings import kernel_settings

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
# The oldest that Triton compiles for, and the first with bf16.
_LEAST_CAPABILITY = (8, 0)

_log = structlog.get_logger()


def runs_triton(operation: str, *tensors: Tensor | None) -> bool:
    """Returns whether the kernel of an operation runs on these tensors, rather than its reference.

    Args:
        operation: its name, for the log.
        tensors: all that the kernel would read; None for one that is absent.

    Raises:
        RuntimeError: the setting is `triton`, and the kernel cannot run.
    """
    wanted = kernel_settings().kernels
    if wanted == "reference":
        return _chosen(operation, "reference", "the setting says so")
    forced = wanted == "triton"
    obstacle = _obstacle([tensor for tensor in tensors if tensor is not None], forced)
    if obstacle is None:
        return _chosen(operation, "triton", "")
    if forced:
        raise RuntimeError(f"SANGSANG_KERNELS=triton, but {operation} cannot run: {obstacle}")
    return _chosen(operation, "reference", obstacle)


def _obstacle(tensors: list[Tensor], forced: bool) -> str | None:
    if {tensor.device for tensor in tensors} != {tensors[0].device}:
        return "the tensors are on several devices"
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.dtype not in FLOATS:
            return f"it has no kernel for {tensor.dtype}"
        if tensor.requires_grad and torch.is_grad_enabled():
            return "the kernel has no backward pass"
    if not tensors[0].is_cuda and not forced:
        return f"the tensors are on {tensors[0].device.type}"
    if find_spec("triton") is None:
        return "triton is not installed"
    return _device_obstacle(tensors[0].device)


def _device_obstacle(device: torch.device) -> str | None:
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return None if capability >= _LEAST_CAPABILITY else f"the GPU is of {capability}"
    return None if _interprets() else f"the tensors are on {device.type}"


def _interprets() -> bool:
    from triton import knobs

    return knobs.runtime.interpret


@cache
def _chosen(operation: str, implementation: str, reason: str) -> bool:
    """Logs a choice the first time that it is made."""
    _log.info("kernel_chosen", operation=operation, implementation=implementation, reason=reason)
    return implementation == "triton"
