"""How long a UNet step takes, by rows."""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ...runtime.engines.adapter_bank import SCALE_NAME
from ...runtime.engines.engine import Array, Engine
from ...runtime.models.folder import ModelFolder
from ...runtime.models.profile import StepProfile


def measure_steps(
    engine: Engine,
    folder: ModelFolder,
    size_px: tuple[int, int],
    row_counts: Sequence[int],
    *,
    round_count: int,
    on_step: Callable[[], None],
) -> StepProfile:
    """Returns the median seconds of a step for each number of rows.

    The numbers take turns, so that what else the machine does meets all of them alike. Where the
    engine has a bank of adapters the rows use the first: that is the dearer of both.

    Args:
        engine: the UNet.
        folder: its model.
        size_px: height and width of the pictures.
        row_counts: numbers of rows to measure.
        round_count: steps of each.
        on_step: called after each step, one of warming up for each number included.
    """
    inputs = {count: _inputs(engine, folder, size_px, count) for count in row_counts}
    times: dict[int, list[float]] = {count: [] for count in row_counts}
    for warm in range(round_count + 1):
        for count in row_counts:
            started_at = time.perf_counter()
            engine.infer(inputs[count])
            if warm:
                times[count].append(time.perf_counter() - started_at)
            on_step()
    seconds = {count: statistics.median(taken) for count, taken in times.items()}
    return StepProfile(height_px=size_px[0], width_px=size_px[1], seconds=seconds)


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Keeps this thread, and those it starts, on one core for a while; None changes nothing."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _inputs(
    engine: Engine, folder: ModelFolder, size_px: tuple[int, int], row_count: int
) -> dict[str, Array]:
    random = np.random.default_rng(0)
    sides = (side // folder.vae_scale for side in size_px)
    sample = random.standard_normal((row_count, folder.latent_channels, *sides))
    contexts = random.standard_normal((row_count, folder.token_limit, folder.embedding_width))
    inputs: dict[str, Array] = {
        "sample": sample.astype(np.float32),
        "timestep": np.full(row_count, 500, np.float32),
        "encoder_hidden_states": contexts.astype(np.float32),
    }
    for spec in engine.inputs:
        if spec.name == SCALE_NAME:
            scales = np.zeros((row_count, spec.shape[1] or 1), np.float32)
            scales[:, 0] = 1
            inputs[SCALE_NAME] = scales
    return inputs
