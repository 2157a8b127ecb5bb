"""Turns what a probe saw into rows of a sampler table, and checks the rows against the probe.

A probe gives each step's result in terms of *all* earlier latents and outputs. Most schedulers
look back on one or two; UniPC and PNDM keep a corrected sample, which depends on everything
before. But the later latents depend on it too, so adding multiples of those relations removes
the far past and leaves a short window that says exactly the same.
"""

from collections.abc import Callable

import numpy as np

from ..models.sampler_tables import FIXED_COLUMN_COUNT, MAX_HISTORY, Floats
from .probing import Doubles, Probe

LaneModel = Callable[[Floats, float], Floats]

# Relative; the schedulers' own scalars are f32, but they enter both sides alike.
_ELIMINATION_TOLERANCE = 1e-9


def shortest_history(probe: Probe) -> int | None:
    """Returns the pairs that every step can do with; None if more than `MAX_HISTORY`."""
    for history in range(1, MAX_HISTORY + 1):
        if _windows(probe, history) is not None:
            return history
    return None


def window_rows(probe: Probe, history: int, preview: Doubles) -> Doubles | None:
    """Returns `[rows, 6 + 2 * history]`, the probe as rows of a table; None if it takes more.

    Args:
        probe: of a full run or the beginning of one.
        history: pairs that a row may look back on.
        preview: `[rows, 2]`, by which latents and output predict the clean latents.
    """
    windows = _windows(probe, history)
    if windows is None:
        return None
    fixed = (
        probe.timesteps,
        probe.input_scales,
        probe.noise_scales,
        probe.draws_noise.astype(np.float64),
    )
    return np.concatenate([np.stack(fixed, axis=1), preview, windows], axis=1)


def _windows(probe: Probe, history: int) -> Doubles | None:
    """Returns `[rows, 2 * history]`, coefficients with nothing older than the window; or None."""
    count = len(probe.timesteps)
    parts = np.stack([probe.latent_parts, probe.output_parts])
    sizes = np.abs(parts).max(axis=0)
    far = np.tril(sizes, -history).max(axis=1)
    columns = np.arange(count)[:, None] - np.arange(history)
    windows = np.where(columns >= 0, np.take_along_axis(parts, columns[None] % count, axis=2), 0)
    windows = windows.transpose(1, 0, 2).reshape(count, 2 * history)
    for row in np.flatnonzero(far > _ELIMINATION_TOLERANCE * sizes.max(axis=1)):
        window = _short_window(probe, int(row), history)
        if window is None:
            return None
        windows[row] = window
    return windows


def _short_window(probe: Probe, row: int, history: int) -> Doubles | None:
    """Returns `[2 * history]`, the window of a step that sees more of the past; None if none."""
    oldest = row - history + 1
    target = _result(probe, row, row + 1)
    limit = _ELIMINATION_TOLERANCE * np.abs(target).max()
    # Few relations first: the more there are, the more rounding they add.
    for count in range(1, history + 1):
        reduced = _eliminate(probe, target, oldest, count)
        if reduced is not None and np.abs(reduced[:, :oldest]).max() <= limit:
            return reduced[:, oldest:][:, ::-1].ravel()
    return None


def _eliminate(probe: Probe, target: Doubles, oldest: int, count: int) -> Doubles | None:
    """Returns `target` with multiples of the `count` newest relations added.

    The multiples are those that leave least of what is older than `oldest`.
    """
    row = target.shape[1] - 1
    used = range(row, row - count, -1)
    # A relation holds the noise of its step too, which no later step could see.
    if any(probe.noise_scales[later - 1] for later in used):
        return None
    relations = np.array([_relation(probe, later, row + 1) for later in used])
    far = relations[:, :, :oldest].reshape(count, -1)
    weights = np.linalg.lstsq(far.T, -target[:, :oldest].ravel(), rcond=None)[0]
    return target + np.tensordot(weights, relations, 1)


def _result(probe: Probe, row: int, width: int) -> Doubles:
    """Returns `[2, width]`, how latents and outputs enter the result of step `row`."""
    return np.array([probe.latent_parts[row, :width], probe.output_parts[row, :width]])


def _relation(probe: Probe, row: int, width: int) -> Doubles:
    """Returns `[2, width]`, which is zero on any real run: latents `row` less what made them."""
    relation = -_result(probe, row - 1, width)
    relation[0, row] += 1
    return relation


def replay(rows: Floats, probe: Probe, *, model: LaneModel | None = None) -> float:
    """Returns how far the rows stray from the scheduler's own run of the random lanes.

    Args:
        rows: `[rows, 6 + 2 * history]`; the replay computes in their dtype.
        probe: the run they were read from.
        model: evaluates the nonlinear model again on the replayed latents; None gives the rows
            the outputs of the scheduler's own run.

    Returns:
        The largest difference of any latents, relative to the largest latent of its step or 1.
    """
    history = (rows.shape[1] - FIXED_COLUMN_COUNT) // 2
    latents = [probe.lane_latents[0].astype(rows.dtype)]
    outputs: list[Floats] = []
    worst = 0.0
    for index, row in enumerate(rows):
        output = probe.lane_outputs[index] if model is None else model(row[1] * latents[0], row[0])
        outputs.insert(0, output.astype(rows.dtype))
        result = row[2] * probe.lane_noise[index].astype(rows.dtype)
        for term, (old, out) in enumerate(zip(latents[:history], outputs, strict=False)):
            result = result + row[FIXED_COLUMN_COUNT + term] * old
            result = result + row[FIXED_COLUMN_COUNT + history + term] * out
        latents.insert(0, result)
        truth = probe.lane_latents[index + 1]
        worst = max(worst, float(np.abs(result - truth).max() / max(1.0, np.abs(truth).max())))
    return worst
