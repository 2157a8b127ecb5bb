"""What the models' profiles tell the scheduler; a model without one has its costs learnt."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..services.runtime.models.folder import ModelFolder
from ..services.runtime.models.profile import ModelProfile
from .scheduling.cluster import Pairs
from .scheduling.costs import InitialCosts
from .scheduling.work import HEAVY_STAGE


@dataclass(frozen=True, slots=True)
class Profiles:
    """What is known of the models before they have run.

    Attributes:
        costs: by model ID.
        row_limits: rows of a full batch at the model's own size, by model ID.
        forbidden: pairs of stages that lose when they share a device.
    """

    costs: Mapping[str, InitialCosts]
    row_limits: Mapping[str, int]
    forbidden: Pairs


def read_profiles(paths: Iterable[Path], *, row_limit: int, min_gain: float) -> Profiles:
    """Returns what lies beside some model folders.

    Args:
        paths: the folders.
        row_limit: most rows of a step, whatever a profile says.
        min_gain: how much cheaper more rows have to make a row.
    """
    costs: dict[str, InitialCosts] = {}
    limits: dict[str, int] = {}
    forbidden: Pairs = frozenset()
    for path in paths:
        folder = ModelFolder.open(path)
        profile = ModelProfile.read(folder)
        if profile is None:
            continue
        own = profile.steps[0]
        light_s = {stage: s for stage, s in profile.stages.items() if stage != HEAVY_STAGE}
        costs[folder.model_id] = InitialCosts(own.seconds, light_s, own.pixel_count)
        limits[folder.model_id] = min(row_limit, own.row_limit(min_gain))
        forbidden |= profile.forbidden_pairs
    return Profiles(costs, limits, forbidden)
