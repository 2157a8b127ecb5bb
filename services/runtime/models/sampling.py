"""Finds a model's sampler tables and preview map where they were built.

They lie where the engines lie, beside the model or in the cache, and are checked in the same way.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, cast

from ..engines.cache import BuildKey, EngineCache
from ..engines.loading import find_build
from ..errors import ModelNotReady
from .folder import ModelFolder
from .preview_map import PREVIEW_NAME, PreviewMap
from .sampler_tables import FORMAT_VERSION, SCHEDULES_NAME, SamplerTables

# Neither is a network: numpy alone reads them.
_BACKEND = "numpy"
_PREVIEW_VERSION = 1


def schedules_key(folder: ModelFolder) -> BuildKey:
    """Returns the key of the tables: they follow from the scheduler's configuration alone."""
    config = json.dumps(dict(folder.scheduler_config), sort_keys=True)
    digest = hashlib.sha256(config.encode()).hexdigest()
    return BuildKey(cast(Any, "schedules"), digest, _BACKEND, str(FORMAT_VERSION))


def preview_key(folder: ModelFolder) -> BuildKey:
    """Returns the key of the preview map, which is fitted to the VAE decoder."""
    digest = folder.digest("vae_decoder")
    return BuildKey(cast(Any, "preview"), digest, _BACKEND, str(_PREVIEW_VERSION))


def load_tables(folder: ModelFolder, cache: EngineCache | Path | None = None) -> SamplerTables:
    """Returns a model's sampler tables.

    Raises:
        ModelNotReady: they have not been built, or are damaged.
    """
    return SamplerTables.load(find_build(folder, schedules_key(folder), cache) / SCHEDULES_NAME)


def load_preview(folder: ModelFolder, cache: EngineCache | Path | None = None) -> PreviewMap | None:
    """Returns a model's preview map; None when there is none, which costs only the previews."""
    try:
        return PreviewMap.load(find_build(folder, preview_key(folder), cache) / PREVIEW_NAME)
    except ModelNotReady:
        return None
