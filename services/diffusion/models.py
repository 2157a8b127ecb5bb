"""One model as the diffusion stage holds it: its UNets' loops, its samplers, its limits.

The UNet and its adapters share one engine and one loop, so their rows share batches; a further full
UNet has an engine and a loop of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..runtime.engines.adapter_bank import SCALE_NAME
from ..runtime.engines.engine import Engine
from ..runtime.models.folder import ModelFolder
from ..runtime.models.manifest import BASE_WEIGHTS, Manifest
from ..runtime.models.profile import ModelProfile
from ..runtime.models.sampler_tables import SamplerTables
from ..runtime.models.sampling import load_preview, load_tables
from ..runtime.row_scheduling import ProfiledCosts, RowScheduler
from ..runtime.worker import EngineWorker
from .converters import JobLimits
from .jobs import Array, BatchKey
from .settings import DiffusionSettings
from .step_loop import StepLoop
from .stepper import BatchStep

# Long prompts may come in several chunks of the encoder's length.
_CONTEXT_CHUNK_COUNT = 8


@dataclass(frozen=True, slots=True)
class UnetLoop:
    """A UNet's engine and the loop that takes its steps."""

    engine: Engine
    loop: StepLoop


@dataclass(frozen=True, slots=True)
class DiffusionModel:
    """One model, with every set of its UNet's weights.

    Attributes:
        folder: the model.
        tables: the samplers it was built with.
        limits: what its requests must keep to.
        base: the UNet, which its adapters share.
        unets: the further full UNets, by the name of their weights.
    """

    folder: ModelFolder
    tables: SamplerTables
    limits: JobLimits
    base: UnetLoop
    unets: Mapping[str, UnetLoop]

    @classmethod
    def open(
        cls,
        folder: ModelFolder,
        load: Callable[[ModelFolder], Engine],
        settings: DiffusionSettings,
        worker: EngineWorker,
        observer: Callable[[BatchStep], None] | None = None,
    ) -> "DiffusionModel":
        """Returns the model of a folder. Blocks: call it on the worker.

        Args:
            folder: the model.
            load: returns the engine of a folder's UNet.
            settings: of the process.
            worker: runs the steps.
            observer: called on the engine's thread after every step of a batch.

        Raises:
            ModelNotReady: a UNet or its sampler tables are not built, or damaged, or an adapter
                does not fit.
        """
        manifest = Manifest.read(folder)
        tables = load_tables(folder, settings.cache_dir)
        profile = ModelProfile.read(folder, backend=settings.backend)
        base = _open_loop(folder, load, profile, settings, worker, observer)
        unets = {
            # A further UNet is of the same architecture, so the profile holds for it too.
            name: _open_loop(folder.with_unet(path), load, profile, settings, worker, observer)
            for name, path in manifest.unets.items()
        }
        weights = _adapter_scales(base.engine, tuple(manifest.adapters))
        limits = _limits(folder, settings, {**weights, **dict.fromkeys(unets)})
        return cls(folder, tables, limits, base, unets)

    @property
    def engine(self) -> Engine:
        """The engine of the UNet itself."""
        return self.base.engine

    @property
    def loop(self) -> StepLoop:
        """The loop of the UNet itself."""
        return self.base.loop

    @property
    def loops(self) -> tuple[UnetLoop, ...]:
        """Every UNet with its loop, the model's own first."""
        return (self.base, *self.unets.values())

    def find(self, weights: str) -> UnetLoop:
        """Returns what runs a set of weights that the limits allow."""
        return self.unets.get(weights, self.base)

    def warm_up(self) -> None:
        """Evaluates each UNet once at the default size. Blocks: call it on the worker."""
        folder, scale = self.folder, self.folder.vae_scale
        sides = (folder.default_height_px // scale, folder.default_width_px // scale)
        for unet in self.loops:
            unet.engine.infer(
                {
                    "sample": np.zeros((1, self.limits.channels, *sides), np.float32),
                    "timestep": np.zeros(1, np.float32),
                    "encoder_hidden_states": np.zeros(
                        (1, folder.token_limit, self.limits.context_width), np.float32
                    ),
                }
            )


def _open_loop(
    folder: ModelFolder,
    load: Callable[[ModelFolder], Engine],
    profile: ModelProfile | None,
    settings: DiffusionSettings,
    worker: EngineWorker,
    observer: Callable[[BatchStep], None] | None,
) -> UnetLoop:
    engine = load(folder)
    loop = StepLoop(
        engine,
        worker,
        scheduler=_scheduler(folder, profile, settings),
        waiting_row_limit=settings.waiting_row_limit,
        preview_map=load_preview(folder, settings.cache_dir),
        observer=observer,
    )
    return UnetLoop(engine, loop)


def _scheduler(
    folder: ModelFolder, profile: ModelProfile | None, settings: DiffusionSettings
) -> RowScheduler:
    scale = folder.vae_scale

    def size_px(key: BatchKey) -> tuple[int, int]:
        return key.height * scale, key.width * scale

    row_limit = settings.batch_row_limit
    costs = ProfiledCosts(row_limit, size_px, profile, min_gain=settings.batch_min_gain)
    return RowScheduler(costs, row_limit=row_limit, tier_weights=settings.tier_weights)


def _adapter_scales(engine: Engine, adapters: tuple[str, ...]) -> dict[str, Array | None]:
    """Returns the scales of rows of the UNet itself and of each adapter."""
    if all(spec.name != SCALE_NAME for spec in engine.inputs):
        return {BASE_WEIGHTS: None}
    # The bank has its slots in the manifest's order.
    own = np.zeros(len(adapters), np.float32)
    slots = np.eye(len(adapters), dtype=np.float32)
    return {BASE_WEIGHTS: own, **dict(zip(adapters, slots, strict=True))}


def _limits(
    folder: ModelFolder, settings: DiffusionSettings, weights: Mapping[str, Array | None]
) -> JobLimits:
    return JobLimits(
        weights=weights,
        channels=folder.latent_channels,
        side_multiple=folder.size_multiple_px // folder.vae_scale,
        max_side=settings.max_side_px // folder.vae_scale,
        context_width=folder.embedding_width,
        max_context_length=folder.token_limit * _CONTEXT_CHUNK_COUNT,
    )
