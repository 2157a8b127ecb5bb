"""Graphs of a model's UNet in the precisions of GPU engines, to draw with on a CPU."""

import hashlib
import json
import tempfile
from pathlib import Path

import onnx_ir as ir

from ...runtime.building.failures import ExportFailed
from ...runtime.building.quantizing.quantize import convert
from ...runtime.building.quantizing.simulation import write_simulation
from ...runtime.engines import onnx_runtime
from ...runtime.engines.adapter_bank import open_bank
from ...runtime.engines.loading import find_build
from ...runtime.engines.precisions import Precision, recipe
from ...runtime.engines.tensor_rt_rtx import CONVERSION_VERSION
from ...runtime.engines.tensor_rt_sizes import bank_shapes
from ...runtime.errors import ModelNotReady
from ...runtime.models.folder import ModelFolder
from ...runtime.models.manifest import Manifest

GRAPH_NAME = "unet.onnx"


def simulated_unet(folder: ModelFolder, precision: Precision, work: Path) -> Path:
    """Returns the file of a UNet's graph in a precision, made the first time and kept in `work`.

    Its folder's name is the digest of all that decides it.

    Raises:
        ModelNotReady: the model has not been built, cannot be calibrated, or modelopt is missing.
    """
    bank = open_bank(folder)
    key = onnx_runtime.build_key(folder, "unet")
    shapes = bank_shapes(bank)
    decisive = [key.digest(), precision, recipe(folder, precision), CONVERSION_VERSION, shapes]
    name = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:32]
    target = work / name
    if not target.exists():
        build = find_build(folder, key, None)
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=work, prefix="partial-") as partial:
            made = Path(partial) / "made"
            made.mkdir()
            converted = Path(partial) / "converted.onnx"
            try:
                graph = convert(folder, "unet", build, bank, precision)
            except ExportFailed as exc:
                raise ModelNotReady(f"{folder.model_id} in {precision}: {exc}") from exc
            ir.save(graph, converted, external_data="converted.bin")
            write_simulation(converted, made / GRAPH_NAME)
            made.rename(target)
    return target / GRAPH_NAME


def check_weights(folder: ModelFolder, weights: str) -> None:
    """Checks that a set of weights can be drawn with in a precision of an engine.

    Raises:
        ModelNotReady: it is another UNet, whose graph is another.
    """
    if weights in Manifest.read(folder).unets:
        raise ModelNotReady(
            f"--precision draws with the model's own UNet and its adapters; {weights!r} is another"
        )
