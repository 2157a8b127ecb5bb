"""An engine and a model folder that a test can bend, for the cores of the light stages."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np


class FakeEngine:
    """Computes what it is told to and counts.

    Args:
        compute: from inputs to outputs.
        gate: when given, `infer` waits for it, so that a test can act meanwhile.
    """

    backend = "fake"
    precision = "f32"
    digest = "0" * 64
    inputs = ()
    outputs = ()

    def __init__(
        self,
        name: str,
        compute: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]],
        *,
        gate: threading.Event | None = None,
    ) -> None:
        self.name = name
        self.compute = compute
        self.gate = gate
        self.calls: list[Mapping[str, np.ndarray]] = []
        self.started = threading.Event()
        self.closed = False

    def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls.append(inputs)
        self.started.set()
        if self.gate is not None:
            assert self.gate.wait(10), "the test never opened the gate"
        return self.compute(inputs)

    def close(self) -> None:
        self.closed = True


def fake_folder(**changes: Any) -> Any:
    """A folder of a small model: 4 channels, 8 pixels a latent, 16 pixels at least."""
    values = {
        "model_id": "fake",
        "latent_channels": 4,
        "vae_scale": 8,
        "scaling_factor": 0.18215,
        "shift_factor": 0.0,
        "size_multiple_px": 16,
        "default_width_px": 32,
        "default_height_px": 32,
        "token_limit": 16,
        "embedding_width": 8,
    }
    return SimpleNamespace(**{**values, **changes})


async def until(condition: Callable[[], bool], *, timeout_s: float = 5.0) -> None:
    """Returns once `condition()` holds; for what a thread changes, where there is no event."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.001)
