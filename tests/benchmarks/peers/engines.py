"""The model as every contender holds it: our engines, our sampler tables, our step.

Imported in each peer's own process and environment, so it needs numpy and this package alone. A
peer decides who is in a batch and when it runs; what a batch does is the same code for all.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from sangsang.services.diffusion.batch import run_batch
from sangsang.services.diffusion.jobs import DenoiseJob
from sangsang.services.diffusion.rows import Rows
from sangsang.services.postprocessing.decoder import to_rgb
from sangsang.services.postprocessing.encoding import encode_picture
from sangsang.services.postprocessing.metadata import PictureMetadata
from sangsang.services.runtime.engines.engine import Array, Engine
from sangsang.services.runtime.engines.loading import load_engine
from sangsang.services.runtime.engines.timing import Timing
from sangsang.services.runtime.models.folder import ModelFolder, ModuleName
from sangsang.services.runtime.models.manifest import Manifest
from sangsang.services.runtime.models.sampling import load_tables
from sangsang.services.runtime.noise import TorchGenerator
from sangsang.services.text_encoding.tokenizer import ClipTokenizer

# Names the engines to a process of a peer: an `EngineChoice` as JSON.
ENGINES_VARIABLE = "PEERS_ENGINES"
# As many texts as our text encoding service keeps; peers keep them in the process.
_KEPT_TEXT_COUNT = 1024


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """Which engines of which model; the same for every contender of a run.

    Attributes:
        model: folder.
        cache_dir: where built engines lie.
        backend: `onnxruntime` or `timed`.
        profile: of the device, for `timed`; empty otherwise.
        devices: names of the devices, for `timed`; for a CPU one name for each core.
    """

    model: str
    cache_dir: str
    backend: str
    profile: str
    devices: tuple[str, ...]

    def to_json(self) -> str:
        """Returns it as text, for an environment variable."""
        return json.dumps(asdict(self))

    @classmethod
    def from_environment(cls) -> "EngineChoice":
        """Returns what the variable says."""
        fields = json.loads(os.environ[ENGINES_VARIABLE])
        return cls(**{**fields, "devices": tuple(fields["devices"])})

    @property
    def timed(self) -> bool:
        """Whether devices are held and not computed on."""
        return self.backend == "timed"


@dataclass(frozen=True, slots=True)
class TierPlan:
    """What a tier of the model means.

    Attributes:
        step_count: UNet evaluations.
        guidance_scale: above 1 a picture has two rows.
        scheduler: name of its sampler.
        adapter_scales: `[slots]`, f32; None for an engine without adapters.
    """

    step_count: int
    guidance_scale: float
    scheduler: str
    adapter_scales: Array | None

    @property
    def guided(self) -> bool:
        """Whether the negative prompt plays a part."""
        return self.guidance_scale > 1.0

    @property
    def row_count(self) -> int:
        """Rows of one picture in a step."""
        return 2 if self.guided else 1


class PeerModel:
    """The modules that a process of a peer needs, each loaded on first use.

    Args:
        choice: which engines.
        device: number of the device that this process computes on, from 0.
    """

    def __init__(self, choice: EngineChoice, device: int = 0) -> None:
        self.choice = choice
        self.device = choice.devices[device]
        self.folder = ModelFolder.open(Path(choice.model))
        self._cache = Path(choice.cache_dir)
        self._engines: dict[ModuleName, Engine] = {}
        self._tables = load_tables(self.folder, self._cache)
        self._tokenizer = ClipTokenizer.from_folder(
            self.folder.path / "tokenizer", self.folder.token_limit
        )
        self._manifest = Manifest.read(self.folder)
        self.embed = lru_cache(_KEPT_TEXT_COUNT)(self._embed)

    def engine(self, module: ModuleName) -> Engine:
        """Returns the engine of a module, f32 on one thread."""
        if module not in self._engines:
            timing = Timing()
            if self.choice.timed:
                timing = Timing(Path(self.choice.profile), self.device)
            self._engines[module] = load_engine(
                self.folder, module, backend=self.choice.backend, cache=self._cache, timing=timing
            )
        return self._engines[module]

    def tier(self, name: str) -> TierPlan:
        """Returns what a tier means for this model."""
        tier = self._manifest.tiers[name]
        adapters = tuple(self._manifest.adapters)
        scales = np.array([float(adapter == tier.weights) for adapter in adapters], np.float32)
        scheduler = tier.scheduler or self._manifest.default_scheduler or self._tables.default
        return TierPlan(
            tier.step_count, tier.guidance_scale, scheduler, scales if adapters else None
        )

    def contexts(self, prompt: str, tier: str) -> tuple[Array, ...]:
        """Returns the embeddings of each row of a picture, the negative prompt's first."""
        return (
            (self.embed(""), self.embed(prompt))
            if self.tier(tier).guided
            else (self.embed(prompt),)
        )

    def start(self, contexts: Sequence[Array], seed: int, tier: str) -> Rows:
        """Returns a picture's rows before their first step."""
        plan, folder = self.tier(tier), self.folder
        height = folder.default_height_px // folder.vae_scale
        width = folder.default_width_px // folder.vae_scale
        return Rows(
            DenoiseJob(
                table=self._tables.select(plan.scheduler, plan.step_count),
                noise=TorchGenerator(seed).randn((folder.latent_channels, height, width)),
                initial_latents=None,
                contexts=tuple(contexts),
                adapter_scales=plan.adapter_scales,
                guidance_scale=plan.guidance_scale,
                seed=seed,
                noise_draw_count=1,
            )
        )

    def step(self, members: Sequence[Rows]) -> None:
        """Takes one UNet evaluation for all of some pictures."""
        results = run_batch(self.engine("unet"), members, None)
        for result in results.members:
            if result.error is not None:
                raise result.error

    def decode(self, latents: Sequence[Array]) -> list[bytes]:
        """Returns a PNG for each of some latents, `[channels, height, width]` each."""
        folder = self.folder
        shift, scale = np.float32(folder.shift_factor), np.float32(folder.scaling_factor)
        images = self.engine("vae_decoder").infer({"latents": np.stack(latents) / scale + shift})
        metadata = PictureMetadata()
        return [
            encode_picture(to_rgb(image), mime_type="image/png", quality=90, metadata=metadata)
            for image in images["image"]
        ]

    def warm_up(self, *modules: ModuleName) -> None:
        """Runs modules once, so that nobody's first request pays for it."""
        contexts = (self.embed("a cat"),)
        if "unet" in modules:
            self.step([self.start(contexts, 0, "free")])
        if "vae_decoder" in modules:
            self.decode([self.start(contexts, 0, "free").job.noise])

    def _embed(self, text: str) -> Array:
        ids = self._tokenizer.tokenize(text).ids[None]
        outputs = self.engine("text_encoder").infer({"input_ids": ids})
        return np.ascontiguousarray(outputs["last_hidden_state"][0], np.float32)
