"""GEGLU as plain torch: what the kernel has to compute."""

import torch
from torch import Tensor

from ..gelu.reference import exact_gelu


def geglu_reference(projected: Tensor) -> Tensor:
    """Returns `value * gelu(gate)`, `[..., width]`, in the input's dtype.

    `gelu(g) = g * (1 + erf(g / sqrt 2)) / 2` (Shazeer 2020, "GLU Variants Improve Transformer").
    Computed in fp32 at least and rounded once; diffusers' `GEGLU` rounds after the gelu too.

    Args:
        projected: `[..., 2 * width]`, a row is the value and then the gate.
    """
    exact = projected.to(torch.promote_types(projected.dtype, torch.float32))
    value, gate = exact.chunk(2, dim=-1)
    return (value * exact_gelu(gate)).to(projected.dtype)
