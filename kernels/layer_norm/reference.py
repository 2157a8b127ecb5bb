"""LayerNorm as plain torch: what the kernel has to compute."""

import torch
from torch import Tensor


def layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Returns `(x - mean) / sqrt(var + epsilon) * weight + bias`, in the input's shape and dtype.

    Mean and variance (of the population) are those of each row (Ba et al. 2016). Computed in fp32
    at least and rounded once.

    Args:
        x: `[..., width]`.
        weight: `[width]`.
        bias: `[width]`.
        epsilon: keeps the root from zero.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    rows = x.to(exact)
    centred = rows - rows.mean(dim=-1, keepdim=True)
    variance = centred.square().mean(dim=-1, keepdim=True)
    normal = centred * torch.rsqrt(variance + epsilon)
    return (normal * weight.to(exact) + bias.to(exact)).to(x.dtype)
