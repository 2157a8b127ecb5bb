"""SiLU as plain torch: what the kernel has to compute."""

import torch
from torch import Tensor


def silu_reference(x: Tensor) -> Tensor:
    """Returns `x * sigmoid(x)`, also called swish, in the input's shape and dtype.

    Computed in fp32 at least and rounded once (Elfwing et al. 2017; Ramachandran et al. 2017).
    """
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    return (exact * torch.sigmoid(exact)).to(x.dtype)
