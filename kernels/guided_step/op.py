"""The guided step for callers: checks, takes memory, and launches the kernel or the reference."""

import torch
from torch import Tensor

from ..dispatch import block_count, launch, runs_triton
from .reference import guided_step_reference

BLOCK = 1024
MOST_ROWS = 3
# Columns of the coefficients before those of the history: two scales of guidance, one of noise.
FIXED_COLUMNS = 3


def guided_step(
    outputs: Tensor,
    latents: Tensor,
    past_outputs: Tensor,
    noise: Tensor | None,
    rows: Tensor,
    coefficients: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns the next latents and the guided outputs, both `[pictures, ...]`, fp32.

    `m = r_0 + g_1 * (r_1 - r_0) + g_2 * (r_2 - r_1)`, then
    `sum_j (a_j * x_{i-j} + b_j * m_{i-j}) + s * noise`: the bits of `services/diffusion` on a CPU.

    Args:
        outputs: `[rows, ...]`, what the network gave for the batch, each picture's rows together,
            from the least to the most conditioned: the prompt; the negative prompt and the
            prompt; the negative prompt, the initial picture, and both.
        latents: `[history, pictures, ...]`, fp32, newest first.
        past_outputs: `[history - 1, pictures, ...]`, fp32, guided outputs of the steps before,
            newest first. What has a zero for its coefficient is never read, here and in `latents`.
        noise: `[pictures, ...]`, fp32; None if no picture draws any.
        rows: `[pictures, 2]`, int32: a picture's first row and how many it has, 1 to 3. Trusted:
            to look at them would wait for the GPU.
        coefficients: `[pictures, 3 + 2 * history]`, fp32: `g_1, g_2, s, a_0 .., b_0 ..`.

    Raises:
        ValueError: shapes or dtypes do not fit each other.
        RuntimeError: `SANGSANG_KERNELS=triton` where the kernel cannot run.
    """
    _check(outputs, latents, past_outputs, noise, rows, coefficients)
    operands = (outputs, latents, past_outputs, noise, rows, coefficients)
    if not runs_triton("guided_step", *operands):
        return guided_step_reference(*operands)
    return _launch(*operands)


def _check(
    outputs: Tensor,
    latents: Tensor,
    past_outputs: Tensor,
    noise: Tensor | None,
    rows: Tensor,
    coefficients: Tensor,
) -> None:
    history, pictures = (*latents.shape, 0, 0)[:2]
    picture = latents.shape[2:]
    expected = {
        "outputs": (outputs, (len(outputs) if outputs.ndim else 0, *picture)),
        "past_outputs": (past_outputs, (history - 1, pictures, *picture)),
        "rows": (rows, (pictures, 2)),
        "coefficients": (coefficients, (pictures, FIXED_COLUMNS + 2 * history)),
    }
    if noise is not None:
        expected["noise"] = (noise, (pictures, *picture))
    for name, (tensor, shape) in expected.items():
        if latents.ndim < 3 or history < 1 or tuple(tensor.shape) != shape:
            found = f"{tuple(tensor.shape)} for latents {tuple(latents.shape)}"
            raise ValueError(f"guided_step: {name} should be {shape}, not {found}")
    fp32 = [latents, past_outputs, coefficients, *([] if noise is None else [noise])]
    kinds = {tensor.dtype for tensor in fp32}
    if kinds != {torch.float32} or rows.dtype != torch.int32 or not outputs.is_floating_point():
        raise ValueError("guided_step takes fp32, int32 rows and outputs of any float")


def _launch(
    outputs: Tensor,
    latents: Tensor,
    past_outputs: Tensor,
    noise: Tensor | None,
    rows: Tensor,
    coefficients: Tensor,
) -> tuple[Tensor, Tensor]:
    from .kernel import guided_step_fwd_kernel

    history, pictures = latents.shape[:2]
    latents = latents.contiguous()
    following, guided = torch.empty_like(latents[0]), torch.empty_like(latents[0])
    size = following.numel() // max(pictures, 1)
    noise_or_any = latents if noise is None else noise.contiguous()
    launch(
        guided_step_fwd_kernel,
        (pictures, block_count(size, BLOCK)),
        *(outputs.contiguous(), latents, past_outputs.contiguous(), noise_or_any),
        *(rows.contiguous(), coefficients.contiguous(), pictures, size, following, guided),
        HISTORY=history,
        HAS_NOISE=noise is not None,
        BLOCK=BLOCK,
        # The same bits as on a CPU: products are rounded before they are added.
        enable_fp_fusion=False,
    )
    return following, guided
