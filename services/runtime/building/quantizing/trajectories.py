"""What a UNet is really given: its inputs along denoising trajectories of the model.

Every tier draws pictures as it draws them for users: its steps, guidance, sampler and weights. Of
each step the same number of rows is kept, guided and unguided ones as they come, so that a tier of
35 steps does not drown one of 3.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ...engines.adapter_bank import AdapterBank
from ...engines.engine import Engine
from ...models.folder import ModelFolder
from ...models.manifest import BASE_WEIGHTS, Manifest, Tier
from ..schedules import named_scheduler, quiet_diffusers
from .graph_unet import Rows, adapter_scales, evaluate_with, open_pipeline

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )

# Rows kept of a tier.
TIER_ROWS = 128
# Pictures drawn at a time.
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Trajectories:
    """Rows of UNet evaluations.

    Attributes:
        rows: inputs by name, `[rows, ...]` each; f32.
        tiers: for each row, the index of its tier.
    """

    rows: dict[str, NDArray[np.float32]]
    tiers: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.tiers)

    def batches(self, size: int) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Yields the rows in their order, at most `size` at a time."""
        for first in range(0, len(self), size):
            yield {name: array[first : first + size] for name, array in self.rows.items()}


def collect(
    folder: ModelFolder,
    engine: Engine,
    bank: AdapterBank | None,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    tier_rows: int = TIER_ROWS,
) -> Trajectories:
    """Returns rows of trajectories of each tier; the same for the same arguments.

    Args:
        folder: the model.
        engine: its UNet in f32.
        bank: the adapters that the engine takes.
        prompts: one picture each and tier.
        seed: of noise and choice.
        tier_rows: how many rows of each tier to keep, or a few more: the same of each step.
    """
    pipeline = open_pipeline(folder)
    manifest = Manifest.read(folder)
    own = pipeline.scheduler
    kept: list[dict[str, NDArray[np.float32]]] = []
    tiers: list[int] = []
    for index, tier in enumerate(tiers_of(folder, manifest)):
        with quiet_diffusers():
            pipeline.scheduler = named_scheduler(own, tier.scheduler or manifest.default_scheduler)
        scales = adapter_scales(
            bank, BASE_WEIGHTS if tier.weights in manifest.unets else tier.weights
        )
        seen = _draw(pipeline, engine, scales, tier, prompts, seed)
        chosen = _choose(seen, tier_rows, np.random.default_rng(seed))
        kept.append(chosen)
        tiers += [index] * len(chosen["timestep"])
    rows = {name: np.concatenate([one[name] for one in kept]) for name in kept[0]}
    return Trajectories(rows, np.array(tiers, np.int64))


def _draw(
    pipeline: "StableDiffusionPipeline",
    engine: Engine,
    scales: NDArray[np.float32] | None,
    tier: Tier,
    prompts: Sequence[str],
    seed: int,
) -> list[list[Rows]]:
    """Draws as a tier does; returns what each step of each batch of pictures gave the UNet."""
    output = engine.outputs[0].name
    seen: list[list[Rows]] = []

    def evaluate(rows: Rows) -> NDArray[np.float32]:
        seen[-1].append(rows)
        return engine.infer(rows)[output]

    evaluate_with(pipeline, evaluate, scales)
    for first in range(0, len(prompts), _BATCH):
        part = list(prompts[first : first + _BATCH])
        seen.append([])
        pipeline(
            part,
            num_inference_steps=tier.step_count,
            guidance_scale=tier.guidance_scale,
            generator=[torch.Generator().manual_seed(seed + first + i) for i in range(len(part))],
            output_type="latent",
        )
    return seen


def tiers_of(folder: ModelFolder, manifest: Manifest) -> list[Tier]:
    """Returns the tiers that use a folder's UNet, all if none does; equal ones once."""
    unet = manifest.unets.get
    using = [t for t in manifest.tiers.values() if (unet(t.weights) or "unet") == folder.unet_name]
    found = using or list(manifest.tiers.values())
    return [tier for index, tier in enumerate(found) if tier not in found[:index]]


def _choose(
    seen: Sequence[Sequence[Rows]], count: int, random: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """Returns as many rows of each step, chosen by chance from all pictures."""
    steps = [
        {name: np.concatenate([batch[name] for batch in step]) for name in step[0]}
        for step in zip(*seen, strict=True)
    ]
    each = math.ceil(count / len(steps))
    chosen: list[Rows] = []
    for step in steps:
        rows = len(step["timestep"])
        places = np.sort(random.permutation(rows)[:each])
        chosen.append({name: array[places] for name, array in step.items()})
    return {name: np.concatenate([one[name] for one in chosen]) for name in chosen[0]}
