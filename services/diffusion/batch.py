"""One step of a batch of jobs: gather their rows, run the network, scatter the results."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..runtime.engines.adapter_bank import SCALE_NAME
from ..runtime.engines.engine import Array, Engine, padding_row_count
from ..runtime.errors import CorruptTensor, StageFailed
from ..runtime.models.preview_map import PreviewMap
from .jobs import Picture
from .rows import Rows


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    """What a step did for one job: a preview if one was due, or the error that ends the job."""

    preview: Picture | None = None
    error: CorruptTensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class BatchResult:
    """One step of a batch.

    Attributes:
        members: the result of each job, in the order of the batch.
        started_ns: wall clock at the start, in nanoseconds since the epoch.
        ended_ns: wall clock at the end.
        seconds: duration.
        padding_row_count: rows that the engine added to fill up a size that it takes.
    """

    members: tuple[StepResult, ...]
    started_ns: int
    ended_ns: int
    seconds: float
    padding_row_count: int = 0


def run_batch(
    engine: Engine, members: Sequence[Rows], preview_map: PreviewMap | None
) -> BatchResult:
    """Returns what one UNet evaluation did for each job. Blocks: for the engine's thread.

    Args:
        engine: takes `sample`, `timestep` and `encoder_hidden_states`, and `adapter_scale` if the
            jobs have scales; gives `out_sample`.
        members: jobs of one batch key.
        preview_map: what draws previews; None draws none.

    Raises:
        Exception: whatever the engine raises; the jobs are as they were before.
    """
    started_ns, started_s = time.time_ns(), time.perf_counter()
    inputs, padded_before = _gather(members), padding_row_count(engine)
    outputs = engine.infer(inputs)["out_sample"]
    if outputs.shape != inputs["sample"].shape:
        raise StageFailed(f"the network gave {outputs.shape} for {inputs['sample'].shape}")
    padding = padding_row_count(engine) - padded_before
    results: list[StepResult] = []
    first = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for member in members:
            part = outputs[first : first + member.row_count]
            first += member.row_count
            results.append(_advance(member, part, preview_map))
    seconds = time.perf_counter() - started_s
    return BatchResult(tuple(results), started_ns, time.time_ns(), seconds, padding)


def _gather(members: Sequence[Rows]) -> dict[str, Array]:
    row_count = sum(member.row_count for member in members)
    one = members[0].job
    sample = np.empty((row_count, *one.noise.shape), np.float32)
    timestep = np.empty(row_count, np.float32)
    contexts = np.empty((row_count, *one.contexts[0].shape), np.float32)
    first = 0
    for member in members:
        part = slice(first, first + member.row_count)
        member.fill(sample[part], timestep[part], contexts[part])
        first = part.stop
    inputs: dict[str, Array] = {
        "sample": sample,
        "timestep": timestep,
        "encoder_hidden_states": contexts,
    }
    scales = [m.job.adapter_scales for m in members if m.job.adapter_scales is not None]
    if scales:
        # An engine has a bank or not, so either all jobs have scales or none.
        counts = [member.row_count for member in members]
        inputs[SCALE_NAME] = np.repeat(np.stack(scales), counts, axis=0)
    return inputs


def _advance(member: Rows, outputs: Array, preview_map: PreviewMap | None) -> StepResult:
    try:
        return StepResult(preview=member.advance(outputs, preview_map))
    except CorruptTensor as error:
        return StepResult(error=error)
