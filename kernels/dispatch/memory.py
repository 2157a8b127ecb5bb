"""How tensors lie in memory, for kernels that walk through it from one end to the other."""

from torch import Tensor


def dense(x: Tensor) -> Tensor:
    """Returns the tensor itself if its elements fill one stretch of memory, else a copy.

    Permuted dimensions are no obstacle: NCHW and channels-last both stay as they are. Memory from
    `torch.empty_like` then has the same strides, and element i of one is element i of the other.
    """
    strides = sorted(
        (stride, size) for size, stride in zip(x.shape, x.stride(), strict=True) if size != 1
    )
    expected = 1
    for stride, size in strides:
        if stride != expected:
            return x.contiguous()
        expected *= size
    return x
