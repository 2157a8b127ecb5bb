"""GroupNorm and SiLU as plain torch: what the kernels have to compute."""

import torch
from torch import Tensor


def group_norm_silu_reference(
    x: Tensor, weight: Tensor, bias: Tensor, group_count: int, epsilon: float
) -> Tensor:
    """Returns `silu(h)`, `h = (x - mean) / sqrt(var + epsilon) * weight + bias`, like `x`.

    Mean and variance (of the population) are those of each picture's group of neighbouring
    channels over all pixels (Wu and He 2018). Computed in fp32 at least and rounded once.

    Args:
        x: `[batch, channels, ...]`.
        weight: `[channels]`.
        bias: `[channels]`.
        group_count: groups, all of one width.
        epsilon: keeps the root from zero.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    grouped = x.to(exact).unflatten(1, (group_count, x.shape[1] // group_count)).flatten(2)
    centred = grouped - grouped.mean(dim=2, keepdim=True)
    variance = centred.square().mean(dim=2, keepdim=True)
    normal = (centred * torch.rsqrt(variance + epsilon)).reshape(x.shape)
    per_channel = (1, -1) + (1,) * (x.ndim - 2)
    h = normal * weight.to(exact).view(per_channel) + bias.to(exact).view(per_channel)
    y = (h * torch.sigmoid(h)).to(x.dtype)
    return torch.empty_like(x).copy_(y)
