"""A cast as plain torch: what the kernel has to compute."""

import torch
from torch import Tensor


def cast_reference(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the values of `x` in another dtype, in new memory.

    To the nearest value, ties to even (IEEE 754); what is beyond the largest becomes infinite.
    """
    return x.to(dtype, copy=True)
