"""A bank of low-rank adapters as plain torch: what the kernel has to compute."""

import torch
from torch import Tensor


def lora_bank_reference(x: Tensor, y: Tensor, down: Tensor, up: Tensor, scale: Tensor) -> Tensor:
    """Returns `y + h @ up`, `h = (x @ down) * scale[row]`, `[rows, tokens, out_width]`.

    `down` is the `A` of all adapters side by side and `up` their `B` (Hu et al. 2021), so that a
    row with zeros for an adapter's ranks goes without it. Products are summed in fp32 at least; `h`
    is rounded to the dtype of `x`, as between any two layers, and the sum once.

    The arguments are those of `lora_bank`.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    h = (x.to(exact) @ down.to(exact)) * scale.to(exact)[:, None, :]
    return (y.to(exact) + h.to(x.dtype).to(exact) @ up.to(exact)).to(y.dtype)
