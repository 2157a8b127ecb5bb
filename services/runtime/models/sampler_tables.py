"""Samplers as data: for each step, the coefficients that a diffusers scheduler applies.

Every sampler served here is affine in the latents and the model's raw outputs so far. With `x_i`
the latents before step `i` and `m_i` the UNet's output on `input_scale_i * x_i`:

    x_{i+1} = sum_j (a_ij * x_{i-j} + b_ij * m_{i-j}) + s_i * noise

so a step needs no scheduler, only a row of numbers. `building/schedules.py` reads them out of the
diffusers schedulers; this file stores, checks and hands them out, with numpy alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ..errors import FieldViolation, ModelNotReady

Floats = NDArray[np.floating[Any]]

SCHEDULES_NAME = "schedules.npz"
FORMAT_VERSION = 1
# Latents and outputs that a step may look back on, the current ones included.
MAX_HISTORY = 4
# Columns of a packed row; the history's a and then b follow.
_FIXED_COLUMNS = ("timestep", "input_scale", "noise_scale", "draws_noise", "preview_x", "preview_m")
FIXED_COLUMN_COUNT = len(_FIXED_COLUMNS)


@dataclass(frozen=True, slots=True)
class SamplerTable:
    """One schedule, ready to run: a row for each UNet evaluation.

    Attributes:
        sampler: its name, e.g. `dpmpp_2m`.
        step_count: steps of the whole schedule.
        start_step: steps skipped because the picture starts from another.
        rows: `[rows, 6 + 2 * history]`, f32; a row is laid out as the properties below say.
        start_signal: what the initial latents are multiplied by; 0 for text to image.
        start_noise: what the starting noise is multiplied by.
    """

    sampler: str
    step_count: int
    start_step: int
    rows: Floats
    start_signal: float
    start_noise: float

    @property
    def row_count(self) -> int:
        """UNet evaluations."""
        return len(self.rows)

    @property
    def history(self) -> int:
        """Pairs of latents and outputs that a step looks back on, at least 1."""
        return (self.rows.shape[1] - FIXED_COLUMN_COUNT) // 2

    @property
    def timesteps(self) -> Floats:
        """`[rows]`, what the UNet is told."""
        return self.rows[:, 0]

    @property
    def input_scales(self) -> Floats:
        """`[rows]`, what the latents are multiplied by before the UNet sees them."""
        return self.rows[:, 1]

    @property
    def noise_scales(self) -> Floats:
        """`[rows]`, the `s` of the formula."""
        return self.rows[:, 2]

    @property
    def draws_noise(self) -> NDArray[np.bool_]:
        """`[rows]`, whether the seed's generator is drawn from, even where the noise counts 0."""
        return self.rows[:, 3] != 0

    @property
    def preview_coefficients(self) -> Floats:
        """`[rows, 2]`, `c` of the predicted clean latents `c_x * x + c_m * m`."""
        return self.rows[:, 4:6]

    @property
    def latent_coefficients(self) -> Floats:
        """`[rows, history]`, the `a` of the formula, newest first."""
        return self.rows[:, FIXED_COLUMN_COUNT : FIXED_COLUMN_COUNT + self.history]

    @property
    def output_coefficients(self) -> Floats:
        """`[rows, history]`, the `b` of the formula, newest first."""
        return self.rows[:, FIXED_COLUMN_COUNT + self.history :]


@dataclass(frozen=True, slots=True)
class PackedSampler:
    """Every schedule of one sampler.

    A late start shares its tail with the full schedule: only the first rows differ, while the
    history is short. So the full rows are kept once, and the first `late_row_count` rows of each
    late start beside them.

    Attributes:
        row_counts: `[max steps + 1]`, i32; rows of each step count's full schedule, 0 where the
            sampler has none.
        rows: `[sum of row_counts, columns]`, the full schedules one after the other.
        rows_per_step: rows skipped for each step skipped: diffusers' `scheduler.order`.
        late_row_count: rows at a late start that differ from the full schedule's.
        late_rows: `[starts, late_row_count, columns]`, for each step count the starts 1, 2, ...;
            zeros after a schedule's end.
        starts: `[all starts, 2]`, signal and noise at the start; for each step count text to
            image, then image to image from start 0, 1, ...; NaN where it cannot start.
        refusal: why step counts with no rows have none; empty when all are there.
    """

    row_counts: NDArray[np.int32]
    rows: Floats
    rows_per_step: int
    late_row_count: int
    late_rows: Floats
    starts: Floats
    refusal: str = ""

    @property
    def allowed_step_counts(self) -> NDArray[np.intp]:
        """Step counts that have a schedule, ascending."""
        return np.flatnonzero(self.row_counts)

    def allows(self, step_count: int) -> bool:
        """Returns whether there is a schedule of this many steps."""
        return 0 < step_count < len(self.row_counts) and bool(self.row_counts[step_count])

    def select(self, name: str, step_count: int, start_step: int | None) -> SamplerTable:
        """Returns one schedule; `start_step` None for text to image.

        Raises:
            LookupError: there is none.
        """
        if not self.allows(step_count) or not 0 <= (start_step or 0) < step_count:
            raise LookupError(f"{name} has no schedule of {step_count} steps from {start_step}")
        before = self.allowed_step_counts
        before = before[before < step_count]
        signal, noise = self._start(before, start_step)
        if not np.isfinite(noise):
            raise LookupError(f"{name} cannot start at step {start_step} of {step_count}")
        rows = self._rows(before, step_count, start_step or 0)
        return SamplerTable(name, step_count, start_step or 0, rows, signal, noise)

    def _start(self, before: NDArray[np.intp], start_step: int | None) -> tuple[float, float]:
        offset = int(np.sum(before + 1)) + (0 if start_step is None else 1 + start_step)
        signal, noise = self.starts[offset]
        return float(signal), float(noise)

    def _rows(self, before: NDArray[np.intp], step_count: int, start_step: int) -> Floats:
        end = int(self.row_counts[: step_count + 1].sum())
        first = end - int(self.row_counts[step_count]) + start_step * self.rows_per_step
        if not start_step or not self.late_row_count:
            return self.rows[first:end]
        late = self.late_rows[int(np.sum(before - 1)) + start_step - 1][: end - first]
        return np.concatenate([late, self.rows[first + len(late) : end]])


@dataclass(frozen=True, slots=True)
class SamplerTables:
    """The samplers that a model was built with.

    Attributes:
        default: name of the sampler that the model's own folder asks for.
        max_step_count: most steps that were compiled.
        samplers: the schedules by name.
        refused: why each of the other known samplers is not served, by name.
    """

    default: str
    max_step_count: int
    samplers: Mapping[str, PackedSampler]
    refused: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the samplers that can be asked for, the default first."""
        rest = sorted(name for name in self.samplers if name != self.default)
        return (self.default, *rest) if self.default in self.samplers else tuple(rest)

    def violations(self, name: str, step_count: int) -> list[FieldViolation]:
        """Returns what is wrong with asking for it, by the fields `scheduler` and `step_count`."""
        sampler = self.samplers.get(name)
        if sampler is None:
            return [*self._name_violations(name), *self._limit_violations(step_count)]
        if sampler.allows(step_count):
            return []
        allowed = _ranges(sampler.allowed_step_counts)
        why = f" ({sampler.refusal})" if 0 < step_count <= self.max_step_count else ""
        text = f"must be {allowed} for scheduler {name}, got {step_count}{why}"
        return [FieldViolation("step_count", text)]

    def select(self, name: str, step_count: int, start_step: int | None = None) -> SamplerTable:
        """Returns the schedule of a valid request.

        Args:
            name: one of `names`.
            step_count: steps of the whole schedule.
            start_step: steps to skip when starting from a picture; None for text to image.

        Raises:
            LookupError: there is no such schedule; see `violations`.
        """
        return self.samplers[name].select(name, step_count, start_step)

    def _name_violations(self, name: str) -> list[FieldViolation]:
        names = ", ".join(self.names)
        if name in self.refused:
            text = f"{name} is not served for this model: {self.refused[name]}; served: {names}"
        else:
            text = f"must be one of {names}; got {name[:40]!r}"
        return [FieldViolation("scheduler", text)]

    def _limit_violations(self, step_count: int) -> list[FieldViolation]:
        if 1 <= step_count <= self.max_step_count:
            return []
        text = f"must be 1 to {self.max_step_count}, got {step_count}"
        return [FieldViolation("step_count", text)]

    def save(self, path: Path) -> None:
        """Writes one compressed .npz; the same tables give the same bytes."""
        meta: dict[str, Any] = {
            "version": FORMAT_VERSION,
            "default": self.default,
            "max_step_count": self.max_step_count,
            "refused": dict(self.refused),
            "samplers": {name: _facts(sampler) for name, sampler in self.samplers.items()},
        }
        arrays: dict[str, Any] = {"meta": np.array(json.dumps(meta, sort_keys=True))}
        for name, sampler in self.samplers.items():
            arrays[f"{name}.row_counts"] = sampler.row_counts
            arrays[f"{name}.rows"] = sampler.rows.astype("<f4")
            arrays[f"{name}.late_rows"] = sampler.late_rows.astype("<f4")
            arrays[f"{name}.starts"] = sampler.starts.astype("<f4")
        with path.open("wb") as stream:
            np.savez_compressed(stream, **arrays)

    @classmethod
    def load(cls, path: Path) -> "SamplerTables":
        """Returns the tables of a file that `save` wrote.

        Raises:
            ModelNotReady: it is missing, damaged or of another version.
        """
        try:
            # Opened here, because numpy leaves a damaged file open.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return cls._from_arrays(cast(Mapping[str, Any], stored))
        except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile) as exc:
            raise ModelNotReady(f"{path} holds no sampler tables: {exc}; build again") from exc

    @classmethod
    def _from_arrays(cls, stored: Mapping[str, Any]) -> "SamplerTables":
        meta = json.loads(str(stored["meta"]))
        if meta["version"] != FORMAT_VERSION:
            raise ValueError(f"version {meta['version']}, expected {FORMAT_VERSION}")
        samplers = {
            name: PackedSampler(
                row_counts=stored[f"{name}.row_counts"],
                rows=stored[f"{name}.rows"],
                late_rows=stored[f"{name}.late_rows"],
                starts=stored[f"{name}.starts"],
                **facts,
            )
            for name, facts in meta["samplers"].items()
        }
        return cls(meta["default"], meta["max_step_count"], samplers, meta["refused"])


def _facts(sampler: PackedSampler) -> dict[str, Any]:
    return {
        "rows_per_step": sampler.rows_per_step,
        "late_row_count": sampler.late_row_count,
        "refusal": sampler.refusal,
    }


def _ranges(numbers: NDArray[np.intp]) -> str:
    """Returns ascending numbers as text: `1 to 50, 52`."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
