"""Scales of 8-bit values, found by NVIDIA's modelopt on calibration data.

Of the graph that modelopt writes only the scales are taken: it gives every user of a value the
quantised one, residual sums and adapters included, while here these get the value itself.
"""

import io
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ...engines.onnx_runtime_import import ort
from ...engines.precisions import Precision
from ...errors import ModelNotReady
from ..failures import ExportFailed

# modelopt's names of a range's measure: `max` the largest value, `entropy` the one that keeps the
# most of the distribution (Migacz 2017).
METHODS: Mapping[Precision, str] = {"int8": "max", "fp8": "max"}

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Scales:
    """Of one product: what a quantised value is multiplied by to give the value.

    Attributes:
        activation: of its first input.
        weight: of its second, one for each output channel: `[channels]`, f32.
    """

    activation: float
    weight: NDArray[np.float32]


class _Reader:
    """Calibration data as ONNX Runtime's quantiser reads it."""

    def __init__(self, batches: Sequence[Mapping[str, Array]]) -> None:
        self._batches = batches
        self._rest = iter(batches)

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self._rest, None)

    def get_first(self) -> Mapping[str, Array]:
        return self._batches[0]

    def rewind(self) -> None:
        self._rest = iter(self._batches)

    def __iter__(self) -> "_Reader":
        return self

    def __next__(self) -> Mapping[str, Array]:
        return next(self._rest)


def check_installed() -> None:
    """Checks that modelopt can be used.

    Raises:
        ModelNotReady: it is not installed.
    """
    _load()


def find_scales(
    model: ir.Model,
    products: Sequence[str],
    precision: Precision,
    batches: Iterable[Mapping[str, Array]],
    method: str | None = None,
) -> dict[str, Scales]:
    """Returns the scales of products by their node's name; of none that modelopt does not quantise.

    Args:
        model: the graph in f32 with its weights, those of the products as initializers.
        products: names of the nodes.
        precision: `int8` or `fp8`.
        batches: all inputs of the graph, several times.
        method: how a range follows from values; None is the one of `METHODS`.

    Raises:
        ModelNotReady: modelopt is not installed.
        ExportFailed: it cannot handle the graph.
    """
    quantize = _load()
    with tempfile.TemporaryDirectory(prefix="sangsang-") as name:
        source, result = Path(name) / "graph.onnx", Path(name) / "quantised.onnx"
        _write(model, source)
        try:
            with _quiet(), _one_thread():
                quantize(
                    str(source),
                    quantize_mode=precision,
                    calibration_data_reader=_Reader(list(batches)),
                    calibration_method=method or METHODS[precision],
                    calibration_eps=["cpu"],
                    nodes_to_quantize=[f"{re.escape(product)}$" for product in products],
                    use_external_data_format=True,
                    output_path=str(result),
                    log_level="ERROR",
                    high_precision_dtype="fp32",
                    disable_mha_qdq=True,
                    enable_gemv_detection_for_trt=False,
                )
        # It raises whatever its parts raise.
        except Exception as exc:
            raise ExportFailed(f"modelopt cannot quantise it: {exc}") from exc
        return _read_scales(onnx.load(result), set(products))


def _write(model: ir.Model, file: Path) -> None:
    """Writes a copy in which the type of every value can be told from the operators alone.

    modelopt drops the types that are stated and skips what it cannot tell; onnx tells none behind a
    GroupNormalization. A cast to what it already is says it again.
    """
    copy = ir.from_proto(ir.to_proto(model))
    for node in [node for node in copy.graph if node.op_type == "GroupNormalization"]:
        cast = ir.node("Cast", [node.outputs[0]], {"to": int(ir.DataType.FLOAT)})
        cast.outputs[0].name = f"{node.outputs[0].name}.typed"
        node.outputs[0].replace_all_uses_with(cast.outputs[0])
        cast.replace_input_with(0, node.outputs[0])
        copy.graph.insert_after(node, cast)
    onnx.save_model(ir.to_proto(copy), file, save_as_external_data=True, location="weights.bin")


def _read_scales(model: onnx.ModelProto, products: set[str]) -> dict[str, Scales]:
    made = {output: node for node in model.graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def scale(value: str) -> Array | None:
        node = made.get(value)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        return onnx.numpy_helper.to_array(constants[node.input[1]]).astype(np.float32)

    found: dict[str, Scales] = {}
    for node in model.graph.node:
        if node.name in products:
            activation, weight = (scale(value) for value in node.input[:2])
            if activation is not None and weight is not None:
                found[node.name] = Scales(float(activation), np.atleast_1d(weight))
    return found


def _load() -> Any:
    try:
        with _quiet():
            return import_module("modelopt.onnx.quantization").quantize
    except ImportError as exc:
        raise ModelNotReady(
            f"engines in int8 and fp8 need modelopt: {exc.name or exc} is not installed; "
            'install the extra: pip install "sangsang[quantize]"'
        ) from exc


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps modelopt from telling what GPUs and packages it lacks, and from drawing bars."""
    with (
        warnings.catch_warnings(),
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _one_thread() -> Iterator[None]:
    """Gives ONNX Runtime's sessions one thread each, which modelopt leaves no way to ask for.

    Threads on all cores that spin would take minutes beside other work, and sum in another order
    from machine to machine.
    """
    original: Any = ort.SessionOptions

    def options() -> Any:
        made = original()
        made.intra_op_num_threads = 1
        made.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return made

    ort.SessionOptions = options
    try:
        yield
    finally:
        ort.SessionOptions = original
