"""A job in flight: its latents so far, and how its rows go into a batch and come out again.

Touched by the engine's thread only, one step at a time.
"""

import numpy as np

from ..runtime.errors import CorruptTensor
from ..runtime.models.preview_map import PreviewMap
from ..runtime.models.sampler_tables import FIXED_COLUMN_COUNT
from ..runtime.noise import TorchGenerator
from .guided_step import guide, guided_step
from .jobs import Array, DenoiseJob, Picture


class Rows:
    """The rows of one job.

    Attributes:
        job: what was asked for.
        completed_step_count: steps done.
    """

    def __init__(self, job: DenoiseJob) -> None:
        self.job = job
        self.completed_step_count = 0
        self._latents: list[Array] = []
        self._outputs: list[Array] = []
        self._generator: TorchGenerator | None = None

    @property
    def row_count(self) -> int:
        """Rows in each batch."""
        return self.job.row_count

    @property
    def finished(self) -> bool:
        """Whether every step is done."""
        return self.completed_step_count == self.job.table.row_count

    @property
    def latents(self) -> Array:
        """`[channels, height, width]`, f32, the newest."""
        return self._latents[0]

    def fill(self, sample: Array, timestep: Array, contexts: Array) -> None:
        """Writes this job's part of the next batch.

        Args:
            sample: `[rows, channels, height, width]`, f32, written to.
            timestep: `[rows]`, f32, written to.
            contexts: `[rows, tokens, width]`, f32, written to.
        """
        if not self._latents:
            self._start()
        number, input_scale = self.job.table.rows[self.completed_step_count, :2]
        sample[:] = self.latents * input_scale
        timestep[:] = number
        for row, context in enumerate(self.job.contexts):
            contexts[row] = context

    def advance(self, outputs: Array, preview_map: PreviewMap | None) -> Picture | None:
        """Takes the step that the network's outputs allow and returns the preview, if one is due.

        Args:
            outputs: `[rows, channels, height, width]`, f32.
            preview_map: what draws previews; None draws none.

        Raises:
            CorruptTensor: the outputs or the latents are not finite.
        """
        table = self.job.table
        step = self.completed_step_count
        output = guide(outputs, self.job.guidance_scale)
        self._outputs.insert(0, output)
        del self._outputs[table.history :]
        noise = self._noise() if table.draws_noise[step] else None
        row = table.rows[step]
        split = FIXED_COLUMN_COUNT + table.history
        latents = guided_step(
            self._latents,
            self._outputs,
            row[FIXED_COLUMN_COUNT:split],
            row[split:],
            row[2],
            noise,
        )
        # A value that is not finite stays so in every sum: one check serves outputs and latents.
        if not (np.isfinite(output).all() and np.isfinite(latents).all()):
            raise CorruptTensor(
                f"step {step + 1} of {table.row_count} gave values that are not finite",
                metadata={"step": str(step + 1), "step_count": str(table.row_count)},
            )
        preview = self._preview(output, preview_map)
        self._latents.insert(0, latents)
        del self._latents[table.history :]
        self.completed_step_count += 1
        return preview

    def _start(self) -> None:
        job = self.job
        latents = np.float32(job.table.start_noise) * job.noise
        if job.initial_latents is not None:
            latents = np.float32(job.table.start_signal) * job.initial_latents + latents
        self._latents = [latents]

    def _noise(self) -> Array:
        if self._generator is None:
            self._generator = TorchGenerator(self.job.seed)
            self._generator.skip(self.job.noise_draw_count, self.job.noise.shape)
        return self._generator.randn(self.job.noise.shape)

    def _preview(self, output: Array, preview_map: PreviewMap | None) -> Picture | None:
        interval = self.job.preview_interval_step_count
        if preview_map is None or not interval or (self.completed_step_count + 1) % interval:
            return None
        of_latents, of_output = self.job.table.preview_coefficients[self.completed_step_count]
        return preview_map.render(of_latents * self.latents + of_output * output)
