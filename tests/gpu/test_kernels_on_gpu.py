"""What the interpreter and the assembler cannot show: the kernels on a GPU. Never run so far."""

import pytest
import torch
from kernel_cases import kernel_cases
from kernel_tolerances import DTYPES, TWO_PRODUCTS, assert_one_rounding, dtype_id

from sangsang.kernels.dispatch import choice, kernel_settings
from sangsang.kernels.guided_step import guided_step
from sangsang.kernels.silu import silu

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def triton_only(monkeypatch):
    monkeypatch.setenv("SANGSANG_KERNELS", "triton")
    kernel_settings.cache_clear()
    choice._chosen.cache_clear()
    yield
    monkeypatch.undo()
    kernel_settings.cache_clear()
    choice._chosen.cache_clear()


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
def test_every_kernel_is_its_reference(dtype):
    for case in kernel_cases(dtype):
        actual, expected = case.run(), case.expect()
        if case.name == "guided_step":
            torch.testing.assert_close(actual, expected, rtol=0, atol=0, msg=case.name)
        elif case.products:
            torch.testing.assert_close(actual, expected, **TWO_PRODUCTS[dtype])
        else:
            assert_one_rounding(actual, expected)


def test_more_elements_than_32_bits_count():
    if torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("two tensors of 4.3 GB do not fit this GPU")
    x = torch.ones(2**31 + 8, dtype=torch.float16, device="cuda")
    assert torch.equal(silu(x)[-8:], silu(x[:8]))


def test_a_guided_step_has_the_same_bits_in_a_cuda_graph():
    shape = (4, 32, 32)
    rows = torch.tensor([[0, 2], [2, 1]], dtype=torch.int32, device="cuda")
    batch = (
        torch.randn(3, *shape, device="cuda"),
        torch.randn(2, 2, *shape, device="cuda"),
        torch.randn(1, 2, *shape, device="cuda"),
        None,
        rows,
        torch.randn(2, 7, device="cuda"),
    )
    expected = guided_step(*batch)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = guided_step(*batch)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured[0], expected[0])
    assert torch.equal(captured[1], expected[1])
