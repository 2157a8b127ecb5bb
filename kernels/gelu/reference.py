"""GELU as plain torch: what the kernel has to compute."""

import math

import torch
from torch import Tensor


def gelu_reference(x: Tensor) -> Tensor:
    """Returns `x * (1 + erf(x / sqrt 2)) / 2`, in the input's shape and dtype.

    Computed in fp32 at least and rounded once (Hendrycks and Gimpel 2016). Exact, not the
    approximation by tanh, and not CLIP's `x * sigmoid(1.702 * x)`.
    """
    return exact_gelu(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)


def exact_gelu(x: Tensor) -> Tensor:
    """Returns the gelu, computed in the input's own dtype.

    Spelt out: torch's own gives NaN for infinity on a CPU, and a GPU's gives infinity.
    """
    return 0.5 * x * (1.0 + torch.erf(x * math.sqrt(0.5)))
