"""Tables, jobs and an engine for tests of the step loop: numpy only."""

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from sangsang.services.diffusion.jobs import DenoiseJob
from sangsang.services.runtime.models.sampler_tables import SamplerTable
from sangsang.services.runtime.row_scheduling import ProfiledCosts, RowScheduler

CHANNELS = 4


class FakeUnet:
    """A nonlinear network whose rows do not see each other.

    Args:
        delay_s: seconds that a call takes.
        gate: when given, each call waits for a permit.
        padded_to: when given, rows are added up to this number, as an engine of fixed sizes does.
    """

    name, backend, precision, digest = "unet", "fake", "f32", "0" * 64
    inputs = outputs = ()

    def __init__(
        self,
        delay_s: float = 0.0,
        gate: threading.Semaphore | None = None,
        *,
        padded_to: int = 0,
    ) -> None:
        self.delay_s = delay_s
        self.gate = gate
        self.padded_to = padded_to
        self.padding_row_count = 0
        self.entered_count = 0
        self.batch_sizes: list[int] = []
        self.threads: set[str] = set()
        self.poison: float | None = None
        self.failures: list[Exception] = []

    def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.entered_count += 1
        if self.gate is not None:
            assert self.gate.acquire(timeout=20), "the test never let the step go"
        time.sleep(self.delay_s)
        self.threads.add(threading.current_thread().name)
        self.batch_sizes.append(len(inputs["sample"]))
        self.padding_row_count += max(0, self.padded_to - len(inputs["sample"]))
        if self.failures:
            raise self.failures.pop(0)
        rows = zip(
            *(inputs[n] for n in ("sample", "timestep", "encoder_hidden_states")), strict=True
        )
        return {"out_sample": np.stack([self._row(*row) for row in rows])}

    def _row(self, sample, timestep, context):
        mixed = np.tanh(sample + np.float32(context.mean())) * np.cos(timestep / np.float32(100))
        if self.poison is not None and context[0, 0] == self.poison:
            mixed = np.full_like(mixed, np.nan)
        return mixed.astype(np.float32)

    def close(self) -> None: ...


def fake_scheduler(row_limit: int = 8, **options: Any) -> RowScheduler:
    """A scheduler without a profile, for latents of eight pixels a side."""
    costs = ProfiledCosts(row_limit, lambda key: (8 * key.height, 8 * key.width))
    return RowScheduler(costs, row_limit=row_limit, **options)


def fake_table(rows: int = 5, history: int = 2, *, noisy: bool = False) -> SamplerTable:
    """A contracting schedule with a history and, if noisy, noise in all steps but the last."""
    table = np.zeros((rows, 6 + 2 * history), np.float32)
    table[:, 0] = np.linspace(999, 0, rows)
    table[:, 1] = 0.9
    table[:, 2] = 0.3 if noisy else 0
    table[:, 3] = noisy
    table[-1, 2:4] = 0
    table[:, 4:6] = 1, -0.5
    table[:, 6] = 0.8
    table[:, 6 + history] = -0.2
    if history > 1:
        table[1:, 7 + history] = 0.05
    return SamplerTable("fake", rows, 0, table, 0.5, 1.5)


def fake_job(
    seed: int = 0,
    *,
    table: SamplerTable | None = None,
    guidance: float = 1.0,
    height: int = 8,
    width: int = 8,
    tokens: int = 3,
    context: float | None = None,
    picture: bool = False,
    **fields,
) -> DenoiseJob:
    """A job whose tensors follow from its seed."""
    random = np.random.default_rng(seed)
    shape = (CHANNELS, height, width)
    contexts = [random.standard_normal((tokens, 6)).astype(np.float32) for _ in range(2)]
    if context is not None:
        contexts[-1][0, 0] = context
    return DenoiseJob(
        table=table or fake_table(),
        noise=random.standard_normal(shape).astype(np.float32),
        initial_latents=random.standard_normal(shape).astype(np.float32) if picture else None,
        contexts=tuple(contexts if guidance > 1 else contexts[-1:]),
        guidance_scale=guidance,
        seed=seed,
        **fields,
    )
