"""Each operation on the shapes of SD 1.5 at 512 px: what GPU tests and the benchmark share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sangsang.kernels.attention import attention
from sangsang.kernels.attention.reference import attention_reference
from sangsang.kernels.cast import cast
from sangsang.kernels.geglu import geglu
from sangsang.kernels.geglu.reference import geglu_reference
from sangsang.kernels.gelu import gelu
from sangsang.kernels.gelu.reference import gelu_reference
from sangsang.kernels.group_norm_silu import group_norm_silu
from sangsang.kernels.group_norm_silu.reference import group_norm_silu_reference
from sangsang.kernels.guided_step import guided_step
from sangsang.kernels.guided_step.reference import guided_step_reference
from sangsang.kernels.layer_norm import layer_norm
from sangsang.kernels.layer_norm.reference import layer_norm_reference
from sangsang.kernels.lora_bank import lora_bank
from sangsang.kernels.lora_bank.reference import lora_bank_reference
from sangsang.kernels.silu import silu
from sangsang.kernels.silu.reference import silu_reference
from sangsang.kernels.softmax import softmax
from sangsang.kernels.softmax.reference import softmax_reference


@dataclass(frozen=True, slots=True)
class KernelCase:
    """An operation with its operands on the GPU.

    Attributes:
        name: of the operation and what is special about the case.
        run: computes it as the mesh would.
        expect: computes the reference.
        torch: computes it as eager torch does, with torch's own fused functions.
        least_bytes: what has to go to and from memory.
        products: whether matrices are multiplied, whose factors are rounded.
    """

    name: str
    run: Callable[[], object]
    expect: Callable[[], object]
    torch: Callable[[], object]
    least_bytes: int
    products: bool = False


def kernel_cases(dtype: torch.dtype) -> Iterator[KernelCase]:
    """Every operation once or twice, in a dtype."""
    yield from _elementwise(dtype)
    yield from _norms(dtype)
    yield from _products(dtype)
    yield _step(dtype)


def _random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, device="cuda", generator=_generator()).to(dtype)


def _generator() -> torch.Generator:
    return torch.Generator("cuda").manual_seed(0)


def _bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _elementwise(dtype: torch.dtype) -> Iterator[KernelCase]:
    functional = torch.nn.functional
    wide = _random(2, 4096, 2560, dtype=dtype)

    def eager_geglu() -> Tensor:
        value, gate = wide.chunk(2, dim=-1)
        return value * functional.gelu(gate)

    least = _bytes(wide) * 3 // 2
    yield KernelCase(
        "geglu", lambda: geglu(wide), lambda: geglu_reference(wide), eager_geglu, least
    )
    x = _random(2, 320, 64, 64, dtype=dtype)
    for operation, reference, eager in (
        (silu, silu_reference, functional.silu),
        (gelu, gelu_reference, functional.gelu),
    ):
        name = operation.__name__
        yield KernelCase(
            name,
            lambda run=operation: run(x),
            lambda run=reference: run(x),
            lambda run=eager: run(x),
            2 * _bytes(x),
        )
    other = torch.float16 if dtype == torch.float32 else torch.float32
    least = _bytes(x) + x.numel() * other.itemsize
    yield KernelCase(
        "cast", lambda: cast(x, other), lambda: x.to(other), lambda: x.to(other), least
    )


def _norms(dtype: torch.dtype) -> Iterator[KernelCase]:
    functional = torch.nn.functional
    for name, shape, memory in (
        ("group_norm_silu, streamed", (2, 320, 64, 64), torch.contiguous_format),
        ("group_norm_silu, resident", (2, 1280, 8, 8), torch.contiguous_format),
        ("group_norm_silu, channels-last", (2, 320, 64, 64), torch.channels_last),
    ):
        x = _random(*shape, dtype=dtype).contiguous(memory_format=memory)
        weight, bias = _random(shape[1], dtype=dtype), _random(shape[1], dtype=dtype)
        yield KernelCase(
            name,
            lambda x=x, w=weight, b=bias: group_norm_silu(x, w, b, group_count=32),
            lambda x=x, w=weight, b=bias: group_norm_silu_reference(x, w, b, 32, 1e-5),
            lambda x=x, w=weight, b=bias: functional.silu(functional.group_norm(x, 32, w, b)),
            2 * _bytes(x),
        )
    x, weight, bias = _random(2, 4096, 320, dtype=dtype), *_random(2, 320, dtype=dtype)
    yield KernelCase(
        "layer_norm",
        lambda: layer_norm(x, weight, bias),
        lambda: layer_norm_reference(x, weight, bias, 1e-5),
        lambda: functional.layer_norm(x, (320,), weight, bias),
        2 * _bytes(x),
    )
    scores = _random(2, 8, 4096, 77, dtype=dtype)
    yield KernelCase(
        "softmax",
        lambda: softmax(scores),
        lambda: softmax_reference(scores),
        lambda: torch.softmax(scores, dim=-1),
        2 * _bytes(scores),
    )


def _products(dtype: torch.dtype) -> Iterator[KernelCase]:
    eager = torch.nn.functional.scaled_dot_product_attention
    for name, queries, keys, depth in (
        ("attention, self, depth 40", 4096, 4096, 40),
        ("attention, cross, depth 80", 1024, 77, 80),
        ("attention, self, depth 160", 256, 256, 160),
    ):
        query, key = (
            _random(2, 8, queries, depth, dtype=dtype),
            _random(2, 8, keys, depth, dtype=dtype),
        )
        value = key.flip(2)
        yield KernelCase(
            name,
            lambda q=query, k=key, v=value: attention(q, k, v),
            lambda q=query, k=key, v=value: attention_reference(q, k, v, q.shape[-1] ** -0.5),
            lambda q=query, k=key, v=value: eager(q, k, v),
            _bytes(query, query, key, value),
            products=True,
        )
    x, y = _random(2, 4096, 320, dtype=dtype), _random(2, 4096, 320, dtype=dtype)
    down, up = _random(320, 32) / 320**0.5, _random(32, 320) / 32**0.5
    bank = (x, y, down.to(dtype), up.to(dtype), _random(2, 32))
    yield KernelCase(
        "lora_bank",
        lambda: lora_bank(*bank),
        lambda: lora_bank_reference(*bank),
        lambda: y + ((x @ bank[2]) * bank[4].to(dtype)[:, None]) @ bank[3],
        _bytes(x, y, y),
        products=True,
    )


def _step(dtype: torch.dtype) -> KernelCase:
    pictures, history, shape = 8, 2, (4, 64, 64)
    rows = torch.tensor([[2 * i, 2] for i in range(pictures)], dtype=torch.int32, device="cuda")
    batch = (
        _random(2 * pictures, *shape, dtype=dtype),
        _random(history, pictures, *shape),
        _random(history - 1, pictures, *shape),
        _random(pictures, *shape),
        rows,
        _random(pictures, 3 + 2 * history),
    )

    def eager() -> Tensor:
        outputs, latents, past, noise, _, numbers = batch
        a, b = numbers[:, 3:5].T[..., None, None, None], numbers[:, 5:7].T[..., None, None, None]
        negative, positive = outputs.float().unflatten(0, (pictures, 2)).unbind(1)
        guided = negative + numbers[:, 0, None, None, None] * (positive - negative)
        step = a[0] * latents[0] + b[0] * guided + a[1] * latents[1] + b[1] * past[0]
        return step + numbers[:, 2, None, None, None] * noise

    least = _bytes(*batch[:4]) + 2 * _bytes(batch[3])
    return KernelCase(
        "guided_step",
        lambda: guided_step(*batch),
        lambda: guided_step_reference(*batch),
        eager,
        least,
    )
