"""Seeds and pictures to noise and latents, with diffusers' numbers. Knows no gRPC.

`StableDiffusionPipeline` draws once from the seed's generator, for the noise.
`StableDiffusionImg2ImgPipeline` first draws what the VAE's posterior is sampled with, then the
noise. A sampler that needs more goes on where this stops, so the count of draws travels along.
"""

import time
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..runtime.engines.engine import Array, Engine
from ..runtime.errors import CorruptTensor
from ..runtime.models.folder import ModelFolder
from ..runtime.noise import TorchGenerator
from ..runtime.picture_checks import PictureLimits
from ..runtime.worker import EngineWorker
from .pictures import Pixels, decode_picture, to_sample

Latents: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LatentRequest:
    """What to start a denoising run from.

    Attributes:
        width_px: width of the picture to make.
        height_px: height of the picture to make.
        seed: in [0, 2^63).
        initial_image: encoded picture; empty for text to image.
    """

    width_px: int
    height_px: int
    seed: int
    initial_image: bytes = b""


@dataclass(frozen=True, slots=True)
class PreparedLatents:
    """What a denoising run starts from.

    Attributes:
        noise: [channels, height, width], f32, standard normal.
        initial_latents: of the shape of `noise`, f32, scaled; None for text to image.
        noise_draw_count: draws of the shape of `noise` already taken from the generator.
        queue_seconds: from the call to the start of its engine work.
        compute_seconds: engine work.
    """

    noise: Latents
    initial_latents: Latents | None
    noise_draw_count: int
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PreparationWorkers:
    """The threads of the stage.

    Attributes:
        engine: runs the VAE encoder.
        noise: draws noise; apart, so that text to image never waits for a picture.
        pictures: decodes pictures. As many at once as it has threads, which bounds the memory.
    """

    engine: EngineWorker
    noise: EngineWorker
    pictures: EngineWorker

    def close(self) -> None:
        """Waits for what runs and drops what waits."""
        for worker in (self.pictures, self.noise, self.engine):
            worker.close()


class LatentPreparer:
    """Prepares latents for one model.

    Args:
        folder: the model, for the shape and scale of its latents.
        engine: computes `moments` from `sample`.
        workers: run the engine, the noise and the pictures.
        limits: what pictures are too large.
    """

    def __init__(
        self,
        folder: ModelFolder,
        engine: Engine,
        *,
        workers: PreparationWorkers,
        limits: PictureLimits,
    ) -> None:
        self.folder = folder
        self.engine = engine
        self._workers = workers
        self._limits = limits

    async def prepare(self, request: LatentRequest) -> PreparedLatents:
        """Returns the noise of a seed and, with a picture, its latents.

        Raises:
            InvalidRequest: the picture cannot be decoded.
            CorruptTensor: the engine returned NaN or Inf.
            Overloaded: too much waits.
        """
        if not request.initial_image:
            noise = await self._workers.noise.run(self._draw, request, 1)
            return PreparedLatents(noise[0], None, noise_draw_count=1)
        arrived_at = time.perf_counter()
        sample = await self._workers.pictures.run(self._sample, request)
        draws = await self._workers.noise.run(self._draw, request, 2)
        before_engine = time.perf_counter() - arrived_at
        kind = (self.engine.digest, sample.shape)
        timed = await self._workers.engine.run_timed(self._encode, sample, draws[0], kind=kind)
        return PreparedLatents(
            draws[1],
            timed.value,
            noise_draw_count=2,
            queue_seconds=before_engine + timed.queue_seconds,
            compute_seconds=timed.compute_seconds,
        )

    async def warm_up(self) -> None:
        """Runs the engine once at the model's own size."""
        size = (self.folder.default_height_px, self.folder.default_width_px)
        sample = np.zeros((1, 3, *size), dtype=np.float32)
        draw = np.zeros(self._shape(*size), dtype=np.float32)
        await self._workers.engine.run(self._encode, sample, draw)

    def _draw(self, request: LatentRequest, count: int) -> list[Latents]:
        generator = TorchGenerator(request.seed)
        shape = self._shape(request.height_px, request.width_px)
        # The batch of one is part of the shape: torch fills an array as a whole.
        return [np.asarray(generator.randn((1, *shape))[0], np.float32) for _ in range(count)]

    def _sample(self, request: LatentRequest) -> Pixels:
        picture = decode_picture(request.initial_image, self._limits)
        return to_sample(picture, width_px=request.width_px, height_px=request.height_px)

    def _encode(self, sample: Pixels, draw: Latents) -> Latents:
        """Returns scaled latents. Blocks: runs on the worker.

        Args:
            sample: [1, 3, H, W], f32, in [-1, 1].
            draw: [C, H/scale, W/scale], f32, standard normal.
        """
        latents = sample_posterior(self.engine.infer({"sample": sample})["moments"][0], draw)
        if not np.isfinite(latents).all():
            raise CorruptTensor("the VAE encoder returned values that are not finite")
        shift, scale = np.float32(self.folder.shift_factor), np.float32(self.folder.scaling_factor)
        return (latents - shift) * scale

    def _shape(self, height_px: int, width_px: int) -> tuple[int, int, int]:
        scale = self.folder.vae_scale
        return (self.folder.latent_channels, height_px // scale, width_px // scale)


def sample_posterior(moments: Array, draw: Latents) -> Latents:
    """Returns a sample of the VAE's posterior, as `DiagonalGaussianDistribution.sample` does.

    Args:
        moments: [2C, h, w], f32: the mean, then the logarithm of the variance.
        draw: [C, h, w], f32, standard normal.
    """
    mean, log_variance = np.split(moments, 2, axis=0)
    deviation = np.exp(np.float32(0.5) * np.clip(log_variance, -30.0, 20.0))
    return (mean + deviation * draw).astype(np.float32, copy=False)
