"""Compiles one diffusers scheduler into the tables of all its step counts and starts.

Everything is read from the scheduler by running it, quirks of late starts included, and every
table is checked against the run that it was read from, in f64 and rounded to f32.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ..models.sampler_tables import FIXED_COLUMN_COUNT, MAX_HISTORY, PackedSampler
from .markov import replay, shortest_history, window_rows
from .probing import Doubles, NotAffine, Probe, lane_model, probe, probe_start

T = TypeVar("T")

# Relative error of a table against its scheduler, in f64 and after rounding to f32.
F64_TOLERANCE = 1e-9
F32_TOLERANCE = 1e-4
# Step counts from which history and late starts are learnt; all others are checked against them.
# Schedulers change their ways at 15 steps and below 4.
_SAMPLE_STEP_COUNTS = (1, 2, 3, 4, 5, 7, 14, 15, 18)
# Keeps the preview of an epsilon model finite where there is no signal at all.
_LEAST_ALPHA = 1e-3


@dataclass(frozen=True, slots=True)
class CompiledSampler:
    """One sampler's tables and how well they agree with its scheduler.

    Attributes:
        packed: the tables, f64.
        f64_error: largest relative difference from the scheduler's own run, in f64.
        f32_error: the same with coefficients and arithmetic rounded to f32.
    """

    packed: PackedSampler
    f64_error: float
    f32_error: float


class SamplerCompiler:
    """Compiles one scheduler.

    Args:
        name: of the sampler, for errors.
        scheduler: any diffusers scheduler whose `step` returns `prev_sample`.
        max_step_count: most steps to compile.
    """

    def __init__(self, name: str, scheduler: Any, max_step_count: int) -> None:
        self._name = name
        self._scheduler = scheduler
        self._max_step_count = max_step_count
        self._rows_per_step = int(scheduler.order)
        self._fresh_step_count = 0
        self._fresh_state: dict[str, Any] = {}
        self._refusals: list[str] = []
        self._f64_error = 0.0
        self._f32_error = 0.0

    def run(self) -> CompiledSampler:
        """Returns the tables.

        Raises:
            NotAffine: the scheduler is no table, or has no step count that works.
        """
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            probes = self._full_probes()
            history = self._history(probes)
            full = {count: self._rows(probes[count], history) for count in probes}
            late_row_count = self._late_row_count(full, history)
            late: list[Doubles] = []
            starts: list[Doubles] = []
            for count in full:
                late.append(self._late(count, late_row_count, history))
                starts.append(self._starts(count))
        row_counts = np.zeros(self._max_step_count + 1, np.int32)
        row_counts[list(full)] = [len(rows) for rows in full.values()]
        packed = PackedSampler(
            row_counts=row_counts,
            rows=np.concatenate(list(full.values())),
            rows_per_step=self._rows_per_step,
            late_row_count=late_row_count,
            late_rows=np.concatenate(late),
            starts=np.concatenate(starts),
            refusal=self._refusals[0] if self._refusals else "",
        )
        return CompiledSampler(packed, self._f64_error, self._f32_error)

    def _full_probes(self) -> dict[int, Probe]:
        probes: dict[int, Probe] = {}
        for step_count in range(1, self._max_step_count + 1):
            found = self._tried(lambda count=step_count: self._full_probe(count))
            if found is not None:
                probes[step_count] = found
        if not probes:
            raise NotAffine(self._name, self._refusals[0])
        return probes

    def _full_probe(self, step_count: int) -> Probe:
        try:
            return self._probe(step_count)
        except IndexError:
            # Where the first two timesteps round to the same number (Karras, from 21 steps on),
            # diffusers begins with the second and runs off the end. Told the index, it works.
            return self._probe(step_count, told_index=True)

    def _tried(self, work: Callable[[], T]) -> T | None:
        """Returns what `work` returns; None, with the reason noted, where the scheduler fails."""
        try:
            return work()
        except NotAffine:
            raise
        except Exception as exc:  # a scheduler's own code may raise anything
            self._refusals.append(self._reason(exc))
            return None

    def _reason(self, exc: Exception) -> str:
        limit = self._scheduler.config.get("original_inference_steps")
        if limit is not None:
            return f"the scheduler was trained on {limit} steps"
        return f"{type(self._scheduler).__name__} refuses: {str(exc)[:160]}"

    def _probe(
        self,
        step_count: int,
        start_step: int = 0,
        row_limit: int | None = None,
        *,
        told_index: bool = False,
    ) -> Probe:
        """Returns a run from `start_step`, set up as diffusers' pipelines do."""
        self._reset(step_count)
        if start_step or told_index:
            self._tell_index(start_step)
        first_row = start_step * self._rows_per_step
        found = probe(self._scheduler, self._name, first_row=first_row, row_limit=row_limit)
        if not all(map(_finite, (found.lane_latents, found.latent_parts, found.output_parts))):
            raise ArithmeticError("its values are not finite")
        return found

    def _reset(self, step_count: int) -> None:
        """Does what `set_timesteps` does, at once where it was the last to do it."""
        if step_count != self._fresh_step_count:
            self._scheduler.set_timesteps(step_count)
            self._fresh_step_count = step_count
            self._fresh_state = _copied(vars(self._scheduler))
        vars(self._scheduler).clear()
        vars(self._scheduler).update(_copied(self._fresh_state))

    def _tell_index(self, start_step: int) -> None:
        if hasattr(self._scheduler, "set_begin_index"):
            self._scheduler.set_begin_index(start_step * self._rows_per_step)

    def _history(self, probes: dict[int, Probe]) -> int:
        sample = [probes[count] for count in _SAMPLE_STEP_COUNTS if count in probes]
        found = [shortest_history(one) for one in sample or list(probes.values())[:1]]
        known = [history for history in found if history is not None]
        if len(known) < len(found):
            raise NotAffine(self._name, self._why(f"it looks back on over {MAX_HISTORY} steps"))
        return max(known)

    def _why(self, otherwise: str) -> str:
        config = self._scheduler.config
        if config.get("thresholding"):
            return "its thresholding depends on the whole picture; set thresholding to false"
        if config.get("clip_sample"):
            return "it clips the predicted picture; set clip_sample to false"
        return otherwise

    def _rows(self, found: Probe, history: int) -> Doubles:
        """Returns the rows of a run, checked against it."""
        rows = window_rows(found, history, self._preview(found))
        if rows is None:
            raise NotAffine(self._name, self._why(f"it looks back on over {history} steps"))
        error = replay(rows, found, model=lane_model)
        if not error <= F64_TOLERANCE:
            raise NotAffine(self._name, self._why(f"it strays from its table by {error:.1e}"))
        rounded = replay(rows.astype(np.float32), found)
        if not rounded <= F32_TOLERANCE:
            raise NotAffine(self._name, f"its table in f32 strays by {rounded:.1e}")
        self._f64_error = max(self._f64_error, error)
        self._f32_error = max(self._f32_error, rounded)
        return rows

    def _preview(self, found: Probe) -> Doubles:
        """Returns `[rows, 2]`: what predicts the clean latents from latents and output."""
        alphas = np.asarray(self._scheduler.alphas_cumprod, np.float64)
        alpha = np.interp(found.timesteps, np.arange(len(alphas)), alphas)
        kind = self._scheduler.config.prediction_type
        if kind == "v_prediction":
            return np.stack([found.input_scales * alpha**0.5, -((1 - alpha) ** 0.5)], 1)
        if kind == "sample":
            return np.stack([np.zeros_like(alpha), np.ones_like(alpha)], 1)
        alpha = np.maximum(alpha, _LEAST_ALPHA)
        return np.stack([found.input_scales / alpha**0.5, -((1 / alpha - 1) ** 0.5)], 1)

    def _late_row_count(self, full: dict[int, Doubles], history: int) -> int:
        """Returns how many rows of a late start differ from the full schedule's."""
        differing = 0
        for step_count in (count for count in _SAMPLE_STEP_COUNTS if count in full):
            for start_step in range(1, step_count):
                late = self._rows(self._probe(step_count, start_step), history)
                tail = full[step_count][start_step * self._rows_per_step :]
                same = np.isclose(late, tail, rtol=1e-9, atol=1e-12).all(axis=1)
                differing = max(differing, int(np.max(np.flatnonzero(~same), initial=-1)) + 1)
        return differing

    def _late(self, step_count: int, late_row_count: int, history: int) -> Doubles:
        """Returns `[starts, late_row_count, columns]` for the starts 1, 2, ..."""
        columns = FIXED_COLUMN_COUNT + 2 * history
        late = np.zeros((step_count - 1, late_row_count, columns))
        for start_step in range(1, step_count if late_row_count else 1):
            found = self._probe(step_count, start_step, late_row_count)
            rows = self._rows(found, history)
            late[start_step - 1, : len(rows)] = rows
        return late

    def _starts(self, step_count: int) -> Doubles:
        """Returns `[1 + step_count, 2]`: signal and noise of text to image and of each start."""
        starts = np.full((1 + step_count, 2), np.nan)
        self._reset(step_count)
        starts[0] = 0.0, float(self._scheduler.init_noise_sigma)
        for start_step in range(step_count):
            self._tell_index(start_step)
            timestep = self._scheduler.timesteps[start_step * self._rows_per_step :][:1]
            mix = self._tried(lambda first=timestep: probe_start(self._scheduler, first))
            starts[1 + start_step] = (np.nan, np.nan) if mix is None else mix
        return starts


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy whose lists are copies too: schedulers keep their history in lists."""
    return {k: list(v) if isinstance(v, list) else v for k, v in state.items()}


def _finite(values: Doubles) -> bool:
    return bool(np.isfinite(values).all())
