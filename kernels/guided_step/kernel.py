"""Guidance and the affine sampler update of every picture of a batch, in one trip to memory."""

import triton
import triton.language as tl


@triton.jit
def guided_step_fwd_kernel(
    p_outputs,
    p_latents,
    p_past,
    p_noise,
    p_rows,
    p_coefficients,
    pictures,
    size,
    p_next,
    p_guided,
    HISTORY: tl.constexpr,
    HAS_NOISE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """m = r_0 + g_1 (r_1 - r_0) + g_2 (r_2 - r_1);  x' = sum_j (a_j x_j + b_j m_j) + s noise.

    One program computes BLOCK elements of one picture, whose row of the coefficients is
    `[g_1, g_2, s, a_0 .. a_h, b_0 .. b_h]`. What a zero would multiply is not read: a history may
    be short, and its memory then holds anything.
    """
    i_picture = tl.program_id(0).to(tl.int64)
    o_pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_pixel = o_pixel < size
    first = tl.load(p_rows + 2 * i_picture).to(tl.int64)
    count = tl.load(p_rows + 2 * i_picture + 1)
    p_numbers = p_coefficients + i_picture * (3 + 2 * HISTORY)
    o_picture = i_picture * size + o_pixel

    p_row = p_outputs + first * size + o_pixel
    b_first = tl.load(p_row, mask=m_pixel, other=0.0).to(tl.float32)
    b_guided = b_first
    if count > 1:
        b_second = tl.load(p_row + size, mask=m_pixel, other=0.0).to(tl.float32)
        b_guided += tl.load(p_numbers) * (b_second - b_first)
        if count > 2:
            b_third = tl.load(p_row + 2 * size, mask=m_pixel, other=0.0).to(tl.float32)
            b_guided += tl.load(p_numbers + 1) * (b_third - b_second)

    b_next = tl.load(p_numbers + 3) * tl.load(p_latents + o_picture, mask=m_pixel, other=0.0)
    b_next += tl.load(p_numbers + 3 + HISTORY) * b_guided
    # Pairs of one age lie as far apart as all pictures of it take.
    age_size = pictures.to(tl.int64) * size
    for age in tl.static_range(1, HISTORY):  # pyright: ignore[reportGeneralTypeIssues]
        of_latent = tl.load(p_numbers + 3 + age)
        of_output = tl.load(p_numbers + 3 + HISTORY + age)
        if of_latent != 0.0:
            p_x = p_latents + age * age_size + o_picture
            b_next += of_latent * tl.load(p_x, mask=m_pixel, other=0.0)
        if of_output != 0.0:
            p_m = p_past + (age - 1) * age_size + o_picture
            b_next += of_output * tl.load(p_m, mask=m_pixel, other=0.0)
    if HAS_NOISE:
        noise_scale = tl.load(p_numbers + 2)
        if noise_scale != 0.0:
            b_next += noise_scale * tl.load(p_noise + o_picture, mask=m_pixel, other=0.0)
    tl.store(p_next + o_picture, b_next, mask=m_pixel)
    tl.store(p_guided + o_picture, b_guided, mask=m_pixel)
