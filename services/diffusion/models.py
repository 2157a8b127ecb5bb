"""One model as the diffusion stage holds it: its UNet's loop, its samplers, its limits."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..runtime.engines.engine import Engine
from ..runtime.models.folder import ModelFolder
from ..runtime.models.sampler_tables import SamplerTables
from ..runtime.models.sampling import load_preview, load_tables
from ..runtime.worker import EngineWorker
from .converters import BASE_WEIGHTS, JobLimits
from .picking import RoundRobin
from .settings import DiffusionSettings
from .step_loop import BatchStep, StepLoop

# Long prompts may come in several chunks of the encoder's length.
_CONTEXT_CHUNK_COUNT = 8


@dataclass(frozen=True, slots=True)
class DiffusionModel:
    """One model, with its UNet's own weights.

    Attributes:
        folder: the model.
        engine: the UNet.
        tables: the samplers it was built with.
        limits: what its requests must keep to.
        loop: takes its steps.
    """

    folder: ModelFolder
    engine: Engine
    tables: SamplerTables
    limits: JobLimits
    loop: StepLoop

    @classmethod
    def open(
        cls,
        folder: ModelFolder,
        engine: Engine,
        settings: DiffusionSettings,
        worker: EngineWorker,
        observer: Callable[[BatchStep], None] | None = None,
    ) -> "DiffusionModel":
        """Returns the model of a folder, whose UNet is loaded. Blocks: call it on the worker.

        Raises:
            ModelNotReady: its sampler tables are not built, or damaged.
        """
        tables = load_tables(folder, settings.cache_dir)
        loop = StepLoop(
            engine,
            worker,
            picker=RoundRobin(settings.batch_row_limit),
            waiting_row_limit=settings.waiting_row_limit,
            preview_map=load_preview(folder, settings.cache_dir),
            observer=observer,
        )
        limits = _limits(folder, settings)
        return cls(folder, engine, tables, limits, loop)

    def warm_up(self) -> None:
        """Evaluates the UNet once at the default size. Blocks: call it on the worker."""
        folder, scale = self.folder, self.folder.vae_scale
        sides = (folder.default_height_px // scale, folder.default_width_px // scale)
        self.engine.infer(
            {
                "sample": np.zeros((1, self.limits.channels, *sides), np.float32),
                "timestep": np.zeros(1, np.float32),
                "encoder_hidden_states": np.zeros(
                    (1, folder.token_limit, self.limits.context_width), np.float32
                ),
            }
        )


def _limits(folder: ModelFolder, settings: DiffusionSettings) -> JobLimits:
    return JobLimits(
        weights=(BASE_WEIGHTS,),
        channels=folder.latent_channels,
        side_multiple=folder.size_multiple_px // folder.vae_scale,
        max_side=settings.max_side_px // folder.vae_scale,
        context_width=folder.embedding_width,
        max_context_length=folder.token_limit * _CONTEXT_CHUNK_COUNT,
    )
