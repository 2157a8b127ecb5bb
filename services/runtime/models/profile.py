"""What `sangsang profile` measures of a model and writes beside it, as `profile.json`.

Schedulers read it: how long a step takes by rows, how many rows pay, how long each stage takes, and
which stages hinder each other on one device. A model works without it. Times follow from what the
networks look like, not from the values of their weights, so a profile outlives a training run.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .folder import MODULE_NAMES, ModelFolder
from .manifest import ADAPTER_FILE_NAME, Manifest

PROFILE_NAME = "profile.json"
# Two stages at once have to do this part of what they do in turns, or they had better take turns.
# Less than 1, because a short stage that waits for a long one costs more than the switching between
# them: on one core, where nothing is gained, calls of a millisecond or two do 0.8 to 1.
LEAST_TOGETHER = 0.7

StageName = Literal["text_encoding", "preprocessing", "diffusion", "postprocessing"]

_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1)]
_log = structlog.get_logger()


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StepProfile(_Frozen):
    """How long a UNet step takes for pictures of one size.

    Attributes:
        height_px: of the pictures.
        width_px: of the pictures.
        seconds: of a step, by its rows.
    """

    height_px: _Count
    width_px: _Count
    seconds: dict[_Count, _Seconds] = Field(min_length=1)

    @property
    def pixel_count(self) -> int:
        """Pixels of a picture."""
        return self.height_px * self.width_px

    def step_seconds(self, row_count: int) -> float:
        """Returns how long a step takes: measured, or on the line through the two nearest."""
        known = sorted(self.seconds)
        if row_count in self.seconds:
            return self.seconds[row_count]
        if len(known) == 1:
            return self.seconds[known[0]] * row_count / known[0]
        above = next((i for i, count in enumerate(known) if count > row_count), len(known) - 1)
        low, high = known[max(above, 1) - 1], known[max(above, 1)]
        slope = (self.seconds[high] - self.seconds[low]) / (high - low)
        # Outside of what was measured, noise could make the line fall: more rows never take less.
        return max(
            self.seconds[low] + slope * (row_count - low),
            self.seconds[low] * min(1.0, row_count / low),
        )

    def row_limit(self, min_gain: float) -> int:
        """Returns the least rows from which no more rows make a row `min_gain` cheaper."""
        row_seconds = {count: seconds / count for count, seconds in self.seconds.items()}
        for count in sorted(row_seconds):
            best = min(row_seconds[more] for more in row_seconds if more >= count)
            if row_seconds[count] <= best * (1 + min_gain):
                return count
        raise AssertionError("the largest count is its own best")


class PairProfile(_Frozen):
    """Two stages at once on one device.

    Attributes:
        stage: one of them.
        other: the other.
        slowdown: how many times longer a call of `stage` takes while `other` runs.
        other_slowdown: how many times longer a call of `other` takes meanwhile.
    """

    stage: StageName
    other: StageName
    slowdown: _Seconds
    other_slowdown: _Seconds

    @property
    def together(self) -> float:
        """What both do at once, as a multiple of what they do in turns."""
        return 1 / self.slowdown + 1 / self.other_slowdown


class ModelProfile(_Frozen):
    """What was measured of a model. Read it with `ModelProfile.read`.

    Attributes:
        backend: engine backend, e.g. `onnxruntime`.
        shape_digest: `shape_digest` of the model that was measured.
        machine: what it was measured on.
        versions: of the packages that matter, by name.
        date: when, ISO 8601.
        steps: steps of the UNet, the model's own size first.
        stages: seconds of one call of each stage at the model's own size; of `diffusion`, of one
            step of one row.
        pairs: what stages do to each other.
    """

    format: Literal[1] = 1
    backend: str
    shape_digest: str
    machine: str
    versions: dict[str, str]
    date: str
    steps: tuple[StepProfile, ...] = Field(min_length=1)
    stages: dict[StageName, _Seconds]
    pairs: tuple[PairProfile, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        sizes = [(step.height_px, step.width_px) for step in self.steps]
        if len(set(sizes)) < len(sizes):
            raise ValueError("steps has a size twice")
        return self

    @classmethod
    def read(cls, folder: ModelFolder, *, backend: str | None = None) -> Self | None:
        """Returns the profile beside a model; None if there is none that fits.

        One that is damaged, of another model or of another backend is as good as none, and logged.

        Args:
            folder: the model.
            backend: what will run it; None takes a profile of any.
        """
        path = folder.path / PROFILE_NAME
        if not path.is_file():
            return None
        reason = ""
        try:
            profile = cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as exc:
            _log.warning("profile_ignored", model_id=folder.model_id, reason=_first_line(exc))
            return None
        if backend not in (None, profile.backend):
            reason = f"it was measured on {profile.backend}, not {backend}"
        elif profile.shape_digest != shape_digest(folder):
            reason = "it was measured on another model"
        if reason:
            _log.warning("profile_ignored", model_id=folder.model_id, reason=reason)
            return None
        return profile

    def write(self, folder: ModelFolder) -> Path:
        """Writes the profile beside a model, whole or not at all, and returns the file."""
        path = folder.path / PROFILE_NAME
        text = json.dumps(self.model_dump(mode="json"), indent=2) + "\n"
        descriptor, name = tempfile.mkstemp(prefix=f".{PROFILE_NAME}.", dir=folder.path)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            # mkstemp's files are their owner's alone; a service may run as another user.
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    def step_seconds(self, row_count: int, height_px: int, width_px: int) -> float:
        """Returns how long a step takes; for a size that was not measured, by its pixels."""
        step = self._nearest(height_px, width_px)
        return step.step_seconds(row_count) * (height_px * width_px / step.pixel_count)

    def row_limit(self, height_px: int, width_px: int, *, min_gain: float = 0.1) -> int:
        """Returns the rows beyond which a step gains little; at least 1.

        A size that was not measured may do as much work in a step as the nearest one that was.
        """
        step = self._nearest(height_px, width_px)
        limit = step.row_limit(min_gain)
        return max(1, -(-limit * step.pixel_count // (height_px * width_px)))

    def stage_seconds(self, stage: StageName) -> float:
        """Returns how long one call of a stage takes, alone, at the model's own size.

        Raises:
            KeyError: that stage was not measured.
        """
        return self.stages[stage]

    def slowdown(self, stage: StageName, other: StageName) -> float:
        """Returns how many times longer `stage` takes while `other` runs; 1 if not measured."""
        for pair in self.pairs:
            if (pair.stage, pair.other) == (stage, other):
                return pair.slowdown
            if (pair.other, pair.stage) == (stage, other):
                return pair.other_slowdown
        return 1.0

    @property
    def forbidden_pairs(self) -> frozenset[frozenset[StageName]]:
        """Pairs of stages that do less at once than in turns; a stage beside itself is one name."""
        return frozenset(
            frozenset((pair.stage, pair.other))
            for pair in self.pairs
            if pair.together < LEAST_TOGETHER
        )

    def _nearest(self, height_px: int, width_px: int) -> StepProfile:
        wanted = height_px * width_px

        def distance(step: StepProfile) -> tuple[bool, float]:
            other = (step.height_px, step.width_px) != (height_px, width_px)
            return other, max(step.pixel_count / wanted, wanted / step.pixel_count)

        return min(self.steps, key=distance)


def shape_digest(folder: ModelFolder) -> str:
    """Returns the sha256, in hex, of what decides a model's times: its shapes, not its values.

    No weights are read, only how large their files are.
    """
    files: Mapping[str, Path] = {
        **{f"{name} config": folder.component_path(name) / "config.json" for name in MODULE_NAMES},
    }
    total = hashlib.sha256()
    for name, file in files.items():
        total.update(name.encode() + file.read_bytes())
    for name in MODULE_NAMES:
        for file in folder.weight_files(name):
            total.update(f"{file.name} {file.stat().st_size}\n".encode())
    for name, adapter in Manifest.read(folder).adapters.items():
        size_bytes = (folder.path / adapter / ADAPTER_FILE_NAME).stat().st_size
        total.update(f"{name} {size_bytes}\n".encode())
    return total.hexdigest()


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        one = error.errors()[0]
        return f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}"
    return str(error)
