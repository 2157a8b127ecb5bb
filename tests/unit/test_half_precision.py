"""Graphs to f16: what stays f32, what the types say, and that too much for f16 is refused."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from safetensors.numpy import load_file, save_file

from sangsang.services.runtime.building import half_checking
from sangsang.services.runtime.building.failures import ExportFailed
from sangsang.services.runtime.building.half_checking import check_half, round_everywhere
from sangsang.services.runtime.building.half_precision import (
    half_of,
    static_graph,
    to_half_precision,
)
from sangsang.services.runtime.building.tensor_rt_rtx import TensorRtRtxBuilder
from sangsang.services.runtime.engines.adapter_bank import open_bank
from sangsang.services.runtime.engines.cache import EngineCache
from sangsang.services.runtime.engines.onnx_runtime import session_options
from sangsang.services.runtime.engines.onnx_runtime_import import ort
from sangsang.services.runtime.engines.weightless import GRAPH_NAME, read_weights
from sangsang.services.runtime.errors import ModelNotReady
from sangsang.services.runtime.models.folder import ModelFolder

POCKET = Path(__file__).parents[2] / "deploy" / "models" / "pocket"
F32, F16 = ir.DataType.FLOAT, ir.DataType.FLOAT16


def graph(text, inputs="float[B, 4] x", output="float[B, 4] y", initializers=""):
    return onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> g ({inputs}) => ({output}) '
        f"{initializers} {{ {text} }}"
    )


def convert(model, weights=None, shapes=None):
    half = to_half_precision(static_graph(model), weights or {}, shapes or {})
    onnx.checker.check_model(ir.to_proto(half), full_check=True)
    return half


def types(half):
    """Type of every output of a node by the node's operator, casts of the pass aside."""
    return {
        node.op_type: node.outputs[0].dtype
        for node in half.graph
        if not str(node.name).endswith(".cast")
    }


def run(half, **feeds):
    content = ir.to_proto(half).SerializeToString()
    session = ort.InferenceSession(content, session_options(1), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def test_a_call_gives_and_gets_f32_and_computes_in_f16():
    half = convert(graph("h = Sigmoid(x)  y = Mul(h, x)"))
    assert types(half) == {"Sigmoid": F16, "Mul": F16}
    assert [v.dtype for v in (*half.graph.inputs, *half.graph.outputs)] == [F32, F32]
    assert [v.name for v in half.graph.outputs] == ["y"]
    # One cast of x for both, and one of y.
    assert sum(node.op_type == "Cast" for node in half.graph) == 2
    x = np.array([[-2, -0.5, 1, 3]], np.float32)
    np.testing.assert_allclose(run(half, x=x), x / (1 + np.exp(-x)), rtol=2e-3)


def test_what_leads_to_a_sine_stays_exact():
    """In f16, 999.7 is 999.5, whose sine is 0.45 instead of 0.62."""
    half = convert(
        graph("a = Mul(x, f)  s = Sin(a)  y = Relu(s)", initializers="<float f = {1.0}>")
    )
    assert types(half) == {"Mul": F32, "Sin": F32, "Relu": F16}
    x = np.full((1, 4), 999.7, np.float32)
    np.testing.assert_allclose(run(half, x=x), np.maximum(np.sin(x), 0), atol=1e-3)


def test_scales_of_a_resize_stay_f32_as_the_standard_has_them():
    half = convert(
        graph(
            'y = Resize <mode = "nearest"> (x, , s)',
            "float[1, 1, 2, 2] x",
            "float[1, 1, h, w] y",
            "<float[4] s = {1.0, 1.0, 2.0, 2.0}>",
        )
    )
    [resize] = [node for node in half.graph if node.op_type == "Resize"]
    assert resize.inputs[0].dtype == F16
    assert resize.inputs[2].dtype == F32


def test_a_cast_to_f32_becomes_one_to_f16():
    half = convert(
        graph(
            "i = Shape(x)  f = Cast <to = 1> (i)  y = Mul(x, f)", "float[B, 2] x", "float[B, 2] y"
        )
    )
    assert types(half)["Cast"] == F16


def test_the_least_number_of_f32_becomes_that_of_f16_and_infinity_stays():
    array = np.array([-3.4e38, -np.inf, 1.0, 7e4, np.nan], np.float32)
    expected = np.array([-65504, -np.inf, 1, 65504, np.nan], np.float16)
    np.testing.assert_array_equal(half_of(array), expected)


def test_inputs_of_the_network_itself_become_f16_of_one_size():
    half = convert(
        graph("y = MatMul(x, w)", "float[B, 4] x, float[4, n] w", "float[B, n] y"),
        shapes={"w": (4, 4)},
    )
    w = half.graph.inputs[1]
    assert w.dtype == F16
    assert w.shape == (4, 4)


def test_what_is_not_given_is_named():
    with pytest.raises(ExportFailed, match="no input w"):
        convert(graph("y = Relu(x)"), shapes={"w": (4, 4)})
    path = POCKET / "engines" / "onnxruntime" / "vae_decoder" / GRAPH_NAME
    exact = static_graph(onnx.load(path, load_external_data=False))
    with pytest.raises(ExportFailed, match="not among the weights"):
        to_half_precision(exact, {}, {})


def test_an_operator_of_unknown_type_is_refused():
    with pytest.raises(ExportFailed, match="unknown types: Strange"):
        static_graph(graph("h = Strange(x)  y = Relu(h)"))
    with pytest.raises(ExportFailed, match="types of the graph cannot be told"):
        static_graph(graph("y = MatMul(x, x)", "float[3, 4] x", "float[3, 4] y"))


def test_other_branches_than_the_adapters_are_refused():
    text = (
        "c = ReduceMax <keepdims = 0> (x)  b = Greater(c, z)  "
        "y = If (b) <then_branch = t () => (float[B, 4] p) { p = Relu(x) }, "
        "else_branch = e () => (float[B, 4] q) { q = Sigmoid(x) }>"
    )
    with pytest.raises(ExportFailed, match="the graph branches"):
        static_graph(graph(text, initializers="<float z = {0.0}>"))


def test_every_product_of_the_shipped_unet_is_in_f16():
    """But for the time's embedding nothing is f32; adapters are inputs, and no branch is left."""
    folder = ModelFolder.open(POCKET)
    path = POCKET / "engines" / "onnxruntime" / "unet" / GRAPH_NAME
    bank = open_bank(folder)
    half = to_half_precision(
        static_graph(onnx.load(path, load_external_data=False)),
        read_weights(path, folder.weights("unet")),
        {name: array.shape for name, array in bank.arrays.items()},
    )
    operators = [node.op_type for node in half.graph]
    assert "If" not in operators
    products = [node for node in half.graph if node.op_type in ("MatMul", "Conv", "Gemm")]
    # Two more for each of the adapted layers than in the UNet itself.
    assert len(products) > 2 * len(bank.layers)
    assert {node.outputs[0].dtype for node in products} == {F16}
    exact = {node.op_type for node in half.graph if node.outputs[0].dtype == F32}
    assert exact <= {"Cast", "Sin", "Cos", "Mul", "Unsqueeze", "Concat", "Slice"}
    floats = {v.dtype for v in half.graph.inputs if v.name in bank.arrays}
    assert floats == {F16, ir.DataType.INT64}


def test_a_graph_is_judged_by_rounding_behind_every_operation():
    """ONNX Runtime itself would give 1 for 1 + 0.0001 - 0.0001 in both."""
    half = convert(graph("a = Add(x, e)  y = Sub(a, x)", initializers="<float e = {0.0004}>"))
    x = np.full((1, 4), 1, np.float32)
    assert run(round_everywhere(half), x=x).tolist() == [[0.0] * 4]


@pytest.fixture
def wild(tmp_path):
    """The shipped decoder's folder and build, its last convolution a million times as strong."""
    path = tmp_path / "wild"
    shutil.copytree(POCKET, path)
    [file] = ModelFolder.open(path).weight_files("vae_decoder")
    tensors = {name: array.astype(np.float32) for name, array in load_file(file).items()}
    tensors["decoder.conv_out.weight"] *= 1e6
    save_file(tensors, file)
    return ModelFolder.open(path), path / "engines" / "onnxruntime" / "vae_decoder"


def test_a_model_that_f16_cannot_hold_is_refused(wild, tmp_path):
    folder, build = wild
    with (
        TensorRtRtxBuilder(folder, "vae_decoder", build, None, EngineCache(tmp_path)) as builder,
        pytest.raises(
            ModelNotReady, match=r"vae_decoder of pocket cannot be served in f16: .*differs"
        ),
    ):
        _ = builder.check


def test_a_conversion_that_contradicts_itself_is_refused(tmp_path):
    folder = ModelFolder.open(POCKET)
    build = POCKET / "engines" / "onnxruntime" / "vae_decoder"
    half = to_half_precision(
        static_graph(onnx.load(build / GRAPH_NAME, load_external_data=False)),
        read_weights(build / GRAPH_NAME, folder.weights("vae_decoder")),
        {},
    )
    ir.save(half, tmp_path / GRAPH_NAME)
    assert check_half(folder, "vae_decoder", build, tmp_path / GRAPH_NAME, None) < 1e-2
    cast = next(node for node in half.graph if node.op_type == "Cast")
    cast.attributes["to"] = ir.AttrInt64("to", int(F32))
    cast.outputs[0].type = ir.TensorType(F32)
    ir.save(half, tmp_path / GRAPH_NAME)
    with pytest.raises(ExportFailed, match="its conversion is not sound"):
        check_half(folder, "vae_decoder", build, tmp_path / GRAPH_NAME, None)


def test_the_bound_is_a_share_of_the_result(monkeypatch, tmp_path):
    monkeypatch.setattr(half_checking, "TOLERANCE", 1e-9)
    folder = ModelFolder.open(POCKET)
    build = POCKET / "engines" / "onnxruntime" / "text_encoder"
    with (
        TensorRtRtxBuilder(folder, "text_encoder", build, None, EngineCache(tmp_path)) as builder,
        pytest.raises(ModelNotReady, match="with f16 the result differs"),
    ):
        _ = builder.check
