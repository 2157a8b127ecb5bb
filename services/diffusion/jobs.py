"""What the step loop is asked for and what it answers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.models.sampler_tables import SamplerTable

Array = NDArray[np.float32]
Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class BatchKey:
    """What rows must share to go through the network together; the engine is the loop's own.

    Attributes:
        height: of the latents.
        width: of the latents.
        dtype: of the latents, e.g. `float32`.
        context_length: tokens of the embeddings.
    """

    height: int
    width: int
    dtype: str
    context_length: int


@dataclass(frozen=True, slots=True, eq=False)
class DenoiseJob:
    """One picture to denoise, checked.

    Attributes:
        table: the schedule to run.
        noise: `[channels, height, width]`, f32, standard normal.
        initial_latents: `[channels, height, width]`, f32, to start from; None for text to image.
        contexts: `[tokens, width]`, f32, one for each row: the prompt's embeddings, before them
            the negative prompt's when guided, in diffusers' order.
        adapter_scales: `[slots]`, f32: how much of each adapter of the engine's bank its rows
            use; None for an engine without a bank.
        guidance_scale: weight of the prompt against the negative prompt; unused with one row.
        seed: of the generator that steps draw noise from.
        noise_draw_count: draws taken from that generator before.
        preview_interval_step_count: steps between previews; 0 for none.
        min_progress_interval_s: least time between progress events without a preview.
        deadline_s: when it is of no use any more, on `time.monotonic`; None for never.
        finish_reserve_s: how long before that its steps should have ended.
        tier: that it shares steps in.
        tenant: whom it is for.
        trace: whatever the observer needs to link a step to this job: see `tracing.py`.
    """

    table: SamplerTable
    noise: Array
    initial_latents: Array | None
    contexts: tuple[Array, ...]
    adapter_scales: Array | None = None
    guidance_scale: float = 1.0
    seed: int = 0
    noise_draw_count: int = 0
    preview_interval_step_count: int = 0
    min_progress_interval_s: float = 0.0
    deadline_s: float | None = None
    finish_reserve_s: float = 0.0
    tier: str = ""
    tenant: str = ""
    trace: Any = None

    @property
    def row_count(self) -> int:
        """Rows of each UNet evaluation: 1, or 2 with guidance."""
        return len(self.contexts)

    @property
    def key(self) -> BatchKey:
        """Returns what its rows must share with their neighbours."""
        _, height, width = self.noise.shape
        return BatchKey(height, width, self.noise.dtype.name, self.contexts[0].shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class StepDone:
    """A step is done.

    Attributes:
        completed_step_count: steps done, from 1.
        step_count: steps of the whole run.
        preview: `[height, width, 3]`, u8: the predicted picture at the latents' size, if due.
    """

    completed_step_count: int
    step_count: int
    preview: Picture | None = None


@dataclass(frozen=True, slots=True)
class JobUsage:
    """What a job cost.

    Attributes:
        queue_seconds: from its submission to its first step.
        compute_seconds: its rows' share of the seconds of each step.
        evaluation_count: UNet evaluations of its own rows.
        mean_batch_row_count: mean rows of its steps, neighbours included.
    """

    queue_seconds: float
    compute_seconds: float
    evaluation_count: int
    mean_batch_row_count: float


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """All steps are done.

    Attributes:
        latents: `[channels, height, width]`, f32.
        usage: what they cost.
    """

    latents: Array
    usage: JobUsage
