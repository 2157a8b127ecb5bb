"""Attention as plain torch: what the kernel has to compute."""

import torch
from torch import Tensor


def attention_reference(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Returns `softmax(query @ key^T * scale) @ value`, `[batch, heads, queries, depth]`.

    Computed in fp32 at least and rounded once (Vaswani et al. 2017).

    Args:
        query: `[batch, heads, queries, depth]`.
        key: `[batch, heads, keys, depth]`.
        value: like `key`.
        scale: factor of the products, `depth ** -0.5` as a rule.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    scores = query.to(exact) @ key.to(exact).transpose(-1, -2) * scale
    return (torch.softmax(scores, dim=-1) @ value.to(exact)).to(query.dtype)
