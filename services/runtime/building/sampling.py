"""Builds what the diffusion stage needs besides the UNet: sampler tables and the preview map."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..engines.cache import BuildKey, EngineCache
from ..engines.loading import find_build, load_engine, resolve_cache
from ..errors import ModelNotReady
from ..models.folder import ModelFolder
from ..models.preview_map import PREVIEW_NAME
from ..models.sampling import preview_key, schedules_key
from .preview import fit_preview
from .schedules import DEFAULT_MAX_STEP_COUNT, Progress, ScheduleReport, build_schedules


@dataclass(frozen=True, slots=True)
class SamplingReport:
    """What `build_sampling` did.

    Attributes:
        schedules: what was compiled; None when the tables were there already.
        preview_built: whether the preview map was fitted now.
    """

    schedules: ScheduleReport | None
    preview_built: bool


def build_sampling(
    folder: ModelFolder,
    *,
    backend: str = "onnxruntime",
    cache_dir: EngineCache | Path | None = None,
    beside: bool = False,
    max_step_count: int = DEFAULT_MAX_STEP_COUNT,
    progress: Progress | None = None,
) -> SamplingReport:
    """Builds the sampler tables and the preview map of a model where they are missing.

    Args:
        folder: the model; its VAE decoder has been built for `backend`.
        backend: what runs the decoder that the preview map is fitted to.
        cache_dir: where builds lie; None takes the user's cache.
        beside: whether to store them in the model's own folder, to be shipped with it.
        max_step_count: most steps that a request may ask for.
        progress: told the share done, 0 to 1, and the sampler worked on.

    Raises:
        ModelNotReady: the packages for building are not installed, or the decoder is not built.
    """
    place = EngineCache.beside(folder) if beside else resolve_cache(cache_dir)
    report = None
    key = schedules_key(folder)
    if not _exists(folder, key, place, beside=beside):
        with place.writing(key) as target:
            report = _compile(folder, target, progress, max_step_count)
    key = preview_key(folder)
    missing = not _exists(folder, key, place, beside=beside)
    if missing:
        with place.writing(key) as target:
            _fit(folder, target / PREVIEW_NAME, backend, place)
    return SamplingReport(report, missing)


def _exists(folder: ModelFolder, key: BuildKey, place: EngineCache, *, beside: bool) -> bool:
    try:
        if beside:
            place.find(key)
        else:
            find_build(folder, key, place)
    except ModelNotReady:
        return False
    return True


def _compile(
    folder: ModelFolder, target: Path, progress: Progress | None, max_step_count: int
) -> ScheduleReport:
    try:
        return build_schedules(folder, target, progress, max_step_count=max_step_count)
    except ImportError as exc:
        raise ModelNotReady(
            f"building needs {exc.name}, which is not installed; "
            'install the extra: pip install "sangsang[build]"'
        ) from exc


def _fit(folder: ModelFolder, path: Path, backend: str, place: EngineCache) -> None:
    decoder = load_engine(folder, "vae_decoder", backend=backend, cache=place)

    def decode(latents: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        unscaled = (latents / folder.scaling_factor + folder.shift_factor).astype(np.float32)
        return decoder.infer({"latents": unscaled})["image"]

    try:
        fit_preview(decode, folder.latent_channels).save(path)
    finally:
        decoder.close()
