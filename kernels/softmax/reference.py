"""Softmax as plain torch: what the kernel has to compute."""

import torch
from torch import Tensor


def softmax_reference(x: Tensor) -> Tensor:
    """Returns `exp(x - max) / sum(exp(x - max))` over the last dimension, like `x`.

    Computed in fp32 at least and rounded once. A row of -inf alone gives NaN, as in torch.

    Args:
        x: `[..., width]`.
    """
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    weights = torch.exp(exact - exact.amax(dim=-1, keepdim=True))
    return (weights / weights.sum(dim=-1, keepdim=True)).to(x.dtype)
