"""What a GPU computes in a precision, computed on a CPU, and how far it is from f32.

8-bit values come from the graph's own operators; all that is in f16 is rounded to it behind every
operation (`../half_checking.py`). Sums are in f32, as tensor cores have them for f16 and FP8 (for
INT8 they are exact).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...engines.adapter_bank import AdapterBank
from ...engines.engine import Engine
from ...engines.onnx_runtime import OnnxRuntimeEngine, session_options
from ...engines.onnx_runtime_import import ort
from ...engines.precisions import read_prompts
from ...models.folder import ModelFolder
from ..failures import ExportFailed
from ..half_checking import round_everywhere
from ..half_precision import half_of
from .graph_unet import Rows
from .trajectories import Trajectories, collect

# Root of the mean square of the difference from f32, as a share of the output's: more is refused.
# Of pocket's, f16 has 0.1 %, INT8 and FP8 a few; a wrong graph has 100 %.
TOLERANCE = 0.2
# Noise of the check is not that of the calibration.
_CHECK_SEED = 100_000
_CHECK_PROMPTS, _CHECK_ROWS = 4, 35
_ROWS = 8


@dataclass(frozen=True, slots=True)
class Difference:
    """How far predictions are from f32, over rows of trajectories.

    Attributes:
        largest: largest absolute difference of a value.
        mean: mean absolute difference.
        relative: root mean square of the difference over that of the predictions.
    """

    largest: float
    mean: float
    relative: float


class SimulatedUnet:
    """A converted UNet on the CPU.

    Args:
        file: a graph that `write_simulation` wrote.
        bank: the adapters that it takes.
        threads: of one evaluation.
    """

    def __init__(self, file: Path, bank: AdapterBank | None, threads: int = 1) -> None:
        options = session_options(threads)
        # Fused, 8-bit products would be computed by other code than they are measured for.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        arrays = {} if bank is None else bank.arrays
        # The engine gets the adapters in f16.
        self._bank = {
            name: half_of(array).astype(array.dtype) if array.dtype.kind == "f" else array
            for name, array in arrays.items()
        }

    def evaluate(self, rows: Rows) -> NDArray[np.float32]:
        """Returns the prediction `[rows, C, h, w]`."""
        return np.asarray(self._session.run(None, {**rows, **self._bank})[0])


def write_simulation(converted: Path, target: Path) -> None:
    """Writes a converted graph so that a CPU computes what a GPU would.

    Args:
        converted: file of the graph, with weights.
        target: file to write; its weights go beside it.
    """
    rounded = round_everywhere(ir.load(converted))
    ir.save(rounded, target, external_data=f"{target.stem}.bin")


def check_quantized(
    folder: ModelFolder, build: Path, converted: Path, bank: AdapterBank | None
) -> Difference:
    """Returns how far a converted UNet is from f32 on trajectories it was not calibrated with.

    Args:
        folder: the model.
        build: folder of the UNet's build for ONNX Runtime.
        converted: file of the converted graph; another is written beside it.
        bank: the adapters.

    Raises:
        ExportFailed: it differs by more than `TOLERANCE`.
    """
    target = converted.with_name("simulated.onnx")
    write_simulation(converted, target)
    reference = OnnxRuntimeEngine(folder, "unet", build, bank=bank)
    try:
        seen = held_out(folder, reference, bank)
        difference = compare(SimulatedUnet(target, bank), reference, seen)
    finally:
        reference.close()
    # NaN is refused too.
    if not difference.relative <= TOLERANCE:
        raise ExportFailed(
            f"in 8 bits its predictions differ by {difference.relative:.1%} from f32, "
            f"more than {TOLERANCE:.0%}"
        )
    return difference


def held_out(folder: ModelFolder, engine: Engine, bank: AdapterBank | None) -> Trajectories:
    """Returns rows of trajectories with other noise than those of the calibration."""
    prompts = read_prompts(folder)[:_CHECK_PROMPTS]
    return collect(folder, engine, bank, prompts, seed=_CHECK_SEED, tier_rows=_CHECK_ROWS)


def compare(unet: SimulatedUnet, reference: Engine, rows: Trajectories) -> Difference:
    """Returns how far a UNet is from an engine in f32."""
    name = reference.outputs[0].name
    pairs = [(unet.evaluate(b), reference.infer(b)[name]) for b in rows.batches(_ROWS)]
    actual, expected = (
        np.concatenate(side).astype(np.float64) for side in zip(*pairs, strict=True)
    )
    apart = actual - expected
    return Difference(
        largest=float(np.abs(apart).max()),
        mean=float(np.abs(apart).mean()),
        relative=float(np.sqrt(np.square(apart).mean() / np.square(expected).mean())),
    )
