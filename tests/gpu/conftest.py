"""A GPU, or the reason why there is none."""

import pytest
import torch


@pytest.fixture(autouse=True)
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU that this build of torch can use")
