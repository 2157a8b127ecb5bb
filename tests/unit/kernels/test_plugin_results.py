"""What a plugin launches computes its operation: sizes, grid and constants, in the interpreter.

The descriptions that TensorRT would give are those of real tensors here, so every size is a number.
"""

import sys
from types import SimpleNamespace

import pytest
import torch
from kernel_tolerances import TWO_PRODUCTS, assert_one_rounding, random

from sangsang.kernels.attention.plugin import PLUGIN as ATTENTION
from sangsang.kernels.attention.plugin import TILES, fitting_tactics
from sangsang.kernels.attention.reference import attention_reference
from sangsang.kernels.compiling.plugins import PluginCall
from sangsang.kernels.geglu.plugin import PLUGIN as GEGLU
from sangsang.kernels.geglu.reference import geglu_reference
from sangsang.kernels.group_norm_silu.plugin import PLUGIN as GROUP_NORM_SILU
from sangsang.kernels.group_norm_silu.reference import group_norm_silu_reference
from sangsang.kernels.guided_step.plugin import PLUGIN as GUIDED_STEP
from sangsang.kernels.guided_step.reference import guided_step_reference
from sangsang.kernels.lora_bank.plugin import PLUGIN as LORA_BANK
from sangsang.kernels.lora_bank.reference import lora_bank_reference

TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
HALF = torch.float16


@pytest.fixture(autouse=True)
def tensorrt(interpreted, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(**TYPES, int32=torch.int32))


class Description(SimpleNamespace):
    """`TensorDesc` of a tensor."""

    @classmethod
    def of(cls, tensor):
        return cls(shape_expr=list(tensor.shape), dtype=tensor.dtype, ndim=tensor.ndim)

    def like(self):
        return Description(shape_expr=list(self.shape_expr), dtype=self.dtype, ndim=self.ndim)


def run(plugin, tensors, attributes=None, tactic=0):
    """The outputs of a plugin, of memory that is NaN until it is written."""
    inputs = tuple(map(Description.of, tensors))
    outputs = plugin.describe(*inputs)
    assert len(outputs) == plugin.output_count
    launch = plugin.launch(PluginCall(inputs, outputs, attributes or {}, tactic))
    memory = [torch.empty(one.shape_expr, dtype=one.dtype) for one in outputs]
    grid = (*launch.grid, 1, 1)[:3]
    launch.kernel[grid](*tensors, *launch.sizes, *memory, **launch.constants)
    return memory


@pytest.mark.parametrize("tactic", [512, 1024, 2048])
def test_geglu(tactic):
    x = random(2, 3, 2 * 1280, dtype=HALF)
    assert_one_rounding(run(GEGLU, [x], tactic=tactic)[0], geglu_reference(x))


@pytest.mark.parametrize("sides", [(8, 8), (64, 64)], ids=["resident", "streamed"])
def test_group_norm_silu(sides):
    x, weight, bias = random(2, 40, *sides, dtype=HALF), random(40, seed=1), random(40, seed=2)
    [y] = run(GROUP_NORM_SILU, [x, weight, bias], {"groups": 4, "eps": 1e-5})
    assert_one_rounding(y, group_norm_silu_reference(x, weight, bias, 4, 1e-5))


@pytest.mark.parametrize("tactic", range(1, len(TILES) + 1))
def test_attention(tactic):
    assert tactic in fitting_tactics(40, "FP16")
    query = random(2, 3, 70, 40, dtype=HALF)
    key, value = (random(2, 3, 41, 40, dtype=HALF, seed=seed) for seed in (1, 2))
    [out] = run(ATTENTION, [query, key, value], {"root_scale": 0.4}, tactic)
    expected = attention_reference(query, key, value, 0.4**2)
    torch.testing.assert_close(out, expected, **TWO_PRODUCTS[HALF])


@pytest.mark.parametrize("tactic", [512, 2048])
def test_guided_step(tactic):
    rows = torch.tensor([[0, 1], [1, 2], [3, 3]], dtype=torch.int32)
    numbers = random(3, 7, seed=4)
    # Noise is always there; what its zero multiplies is not read.
    numbers[0, 2] = 0.0
    noise = random(3, 4, 17, 19, seed=3)
    noise[0] = float("nan")
    tensors = [
        random(6, 4, 17, 19, dtype=HALF),
        random(2, 3, 4, 17, 19, seed=1),
        random(1, 3, 4, 17, 19, seed=2),
        *(noise, rows, numbers),
    ]
    for actual, expected in zip(
        run(GUIDED_STEP, tensors, tactic=tactic), guided_step_reference(*tensors), strict=True
    ):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    ("dtype", "rank", "out_width", "tactic"),
    [
        (HALF, 24, 80, 512),
        (HALF, 4, 600, 256),
        # The tile of 32, for shared memory.
        (torch.float32, 128, 40, 256),
    ],
)
def test_lora_bank(dtype, rank, out_width, tactic):
    tensors = [
        random(3, 23, 37, dtype=dtype),
        random(3, 23, out_width, dtype=dtype, seed=1),
        random(37, rank, dtype=dtype, seed=2, scale=37**-0.5),
        random(rank, out_width, dtype=dtype, seed=3, scale=rank**-0.5),
        # As the fusing pass's node has it.
        random(3, 1, rank, seed=4),
    ]
    [out] = run(LORA_BANK, tensors, tactic=tactic)
    *rest, scale = tensors
    expected = lora_bank_reference(*rest, scale[:, 0])
    torch.testing.assert_close(out, expected, **TWO_PRODUCTS[dtype])
