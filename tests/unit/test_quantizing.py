"""UNets in 8 bits: what is quantised and what is not, what it costs, and what decides an engine."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from host_device import HostDevice
from random_adapters import make_random_adapter
from random_models import make_random_model
from typer.testing import CliRunner

from sangsang.orchestrator.cli import app
from sangsang.services.runtime.building import build as build_module
from sangsang.services.runtime.building.build import build_model
from sangsang.services.runtime.building.engine_builds import target_devices
from sangsang.services.runtime.building.export import export_module
from sangsang.services.runtime.building.failures import ExportFailed
from sangsang.services.runtime.building.half_precision import half_of
from sangsang.services.runtime.building.quantizing import simulation
from sangsang.services.runtime.building.quantizing.graph_unet import adapter_scales
from sangsang.services.runtime.building.quantizing.insertion import quantized
from sangsang.services.runtime.building.quantizing.quantize import convert
from sangsang.services.runtime.building.quantizing.trajectories import collect
from sangsang.services.runtime.building.tensor_rt_rtx import TensorRtRtxBuilder
from sangsang.services.runtime.engines import execution_lane, tensor_rt_rtx
from sangsang.services.runtime.engines.adapter_bank import SCALE_NAME, open_bank
from sangsang.services.runtime.engines.cache import EngineCache
from sangsang.services.runtime.engines.loading import find_build, load_engine
from sangsang.services.runtime.engines.onnx_runtime import OnnxRuntimeEngine
from sangsang.services.runtime.engines.onnx_runtime_import import ort
from sangsang.services.runtime.engines.plan import Plan
from sangsang.services.runtime.engines.precisions import (
    PROMPTS_PATH,
    check_precision,
    module_precision,
    read_prompts,
    recipe,
)
from sangsang.services.runtime.engines.tensor_rt_rtx import ENGINE_NAME, build_key
from sangsang.services.runtime.engines.torch_modules import load_module
from sangsang.services.runtime.engines.weightless import GRAPH_NAME, write_weight_list
from sangsang.services.runtime.errors import ModelNotReady
from sangsang.services.runtime.models.adapters import adapted_layers
from sangsang.services.runtime.models.folder import ModelFolder

EIGHT_BITS = ("int8", "fp8")
TYPES = {"int8": ir.DataType.INT8, "fp8": ir.DataType.FLOAT8E4M3FN}
MANIFEST = {
    "weights": {"student": {"adapter": "student"}},
    "tiers": {
        "free": {"step_count": 2, "guidance_scale": 1.0, "weights": "student"},
        "pro": {"step_count": 4, "guidance_scale": 3.0},
    },
    "limits": {"width_px": {"min": 16, "max": 32}, "height_px": {"min": 16, "max": 32}},
}
PROMPTS = ("a cat", "a dog", "red", "a red cat")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = make_random_model(
        tmp_path_factory.mktemp("model") / "tiny", unet={"block_out_channels": (32, 64)}
    )
    make_random_adapter(path, path / "student", r=4)
    (path / "sangsang.json").write_text(json.dumps(MANIFEST))
    (path / PROMPTS_PATH).parent.mkdir()
    (path / PROMPTS_PATH).write_text("\n".join(PROMPTS))
    return ModelFolder.open(path)


@pytest.fixture(scope="module")
def bank(folder):
    return open_bank(folder)


@pytest.fixture(scope="module")
def build(folder, tmp_path_factory):
    """The UNet's graph in f32, as a build leaves it."""
    layers = adapted_layers(folder)
    exported = export_module(folder, "unet", load_module(folder, "unet"), layers)
    target = tmp_path_factory.mktemp("build")
    (target / GRAPH_NAME).write_bytes(exported.content)
    write_weight_list(target / GRAPH_NAME, exported.weights)
    return target


@pytest.fixture(scope="module")
def reference(folder, build, bank):
    engine = OnnxRuntimeEngine(folder, "unet", build, bank=bank)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def converted(folder, build, bank, tmp_path_factory):
    """File of the converted graph, by precision."""
    files = {}
    for precision in ("f16", *EIGHT_BITS):
        files[precision] = tmp_path_factory.mktemp(precision) / GRAPH_NAME
        graph = convert(folder, "unet", build, bank, precision)
        ir.save(graph, files[precision], external_data="weights.bin")
        onnx.checker.check_model(files[precision], full_check=True)
    return files


def products(file):
    return [node for node in ir.load(file).graph if node.op_type in ("Conv", "MatMul", "Gemm")]


def producer(node, index):
    made = node.inputs[index].producer()
    return "" if made is None else made.op_type


def layer_of(node):
    """Stored name of the layer that a product belongs to, `` if it has no weight of its own."""
    weight = node.inputs[1]
    while weight.producer() is not None:
        weight = weight.producer().inputs[0]
    name, found, _ = str(weight.name).partition(".weight")
    return name if found else ""


@pytest.mark.parametrize("precision", EIGHT_BITS)
def test_products_inside_the_blocks_take_8_bits_and_no_others(converted, precision):
    kinds = {}
    for node in products(converted[precision]):
        sides = [producer(node, index) == "DequantizeLinear" for index in (0, 1)]
        assert sides[0] == sides[1]
        layer = layer_of(node)
        kinds.setdefault(layer if sides[0] else "left", set()).add(layer)
        if sides[0]:
            assert layer.startswith(("down_blocks.", "mid_block.", "up_blocks."))
            assert node.inputs[1].producer().inputs[0].dtype == TYPES[precision]
    left = kinds.pop("left")
    # Attention's own products and the adapters' have no weight: they are among the left.
    assert {"conv_in", "conv_out", "time_embedding.linear_1", ""} <= left
    assert all("time_emb_proj" in name or "." not in name or "time_" in name for name in left)
    blocks = [name for name in kinds if name.endswith(("conv1", "to_q", "ff.net.2", "proj_in"))]
    assert len(blocks) > 8
    assert not left & set(kinds)


@pytest.mark.parametrize("precision", EIGHT_BITS)
def test_adapters_and_residuals_take_the_value_itself(converted, precision):
    for node in ir.load(converted[precision]).graph:
        if node.op_type == "DequantizeLinear":
            users = [use.node for use in node.outputs[0].uses()]
            assert users
            assert all(layer_of(user) for user in users)
            assert {user.op_type for user in users} <= {"Conv", "MatMul"}


@pytest.mark.parametrize("precision", EIGHT_BITS)
def test_it_runs_near_f32_on_trajectories_that_it_has_not_seen(
    folder, build, bank, converted, precision
):
    half, eight = (
        simulation.check_quantized(folder, build, converted[name], bank)
        for name in ("f16", precision)
    )
    assert half.relative < 0.01
    # Eight bits show, or nothing was quantised.
    assert 3 * half.relative < eight.relative < 0.15
    assert eight.mean < eight.largest


def test_what_differs_too_much_is_refused(folder, build, bank, converted, monkeypatch):
    monkeypatch.setattr(simulation, "TOLERANCE", 1e-6)
    with pytest.raises(ExportFailed, match=r"differ by .*% from f32"):
        simulation.check_quantized(folder, build, converted["int8"], bank)


@pytest.mark.parametrize("precision", EIGHT_BITS)
def test_adapters_still_add(folder, bank, reference, converted, precision, tmp_path):
    file = tmp_path / "simulated.onnx"
    simulation.write_simulation(converted[precision], file)
    unet = simulation.SimulatedUnet(file, bank)
    rows = next(simulation.held_out(folder, reference, bank).batches(4))
    plain, adapted = (
        {**rows, SCALE_NAME: np.full_like(rows[SCALE_NAME], scale)} for scale in (0, 1)
    )
    name = reference.outputs[0].name
    expected = reference.infer(adapted)[name] - reference.infer(plain)[name]
    actual = unet.evaluate(adapted) - unet.evaluate(plain)
    assert np.abs(expected).max() > 0.1
    assert np.sqrt(np.square(actual - expected).mean()) < 0.3 * np.sqrt(np.square(expected).mean())


def test_the_same_model_gives_the_same_graph(folder, build, bank, converted, tmp_path):
    again = convert(folder, "unet", build, bank, "int8")
    ir.save(again, tmp_path / GRAPH_NAME, external_data="weights.bin")
    for name in (GRAPH_NAME, "weights.bin"):
        assert (tmp_path / name).read_bytes() == converted["int8"].with_name(name).read_bytes()


@pytest.mark.parametrize("precision", EIGHT_BITS)
def test_weights_are_rounded_as_the_operator_rounds(precision):
    """ONNX Runtime's QuantizeLinear and ours agree, ties and values beyond the range included."""
    random = np.random.default_rng(0)
    array = random.standard_normal((6, 40)).astype(np.float32)
    array[0, :8] = np.arange(8) / 2 + 0.5
    array[1, :2] = 1e5, -1e5
    scale = np.array([1, 0.25, 0.01, 0.02, 0.03, 0.5], np.float32)
    kind = {"int8": "int8", "fp8": "float8e4m3fn"}[precision]
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> g (float[6, 40] x, float[6] s) => '
        f"({kind}[6, 40] q, float[6, 40] y) {{ q = QuantizeLinear <axis = 0, output_dtype = "
        f"{int(TYPES[precision])}> (x, s)  y = DequantizeLinear <axis = 0> (q, s) }}"
    )
    del model.graph.output[0]
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    [expected] = session.run(None, {"x": array, "s": scale})
    ours = quantized(array, scale, 0, precision).astype(np.float32) * scale[:, None]
    np.testing.assert_array_equal(ours, expected)


def test_trajectories_have_as_many_rows_of_each_step(folder, bank, reference):
    seen = collect(folder, reference, bank, PROMPTS, tier_rows=8)
    times = {tier: seen.rows["timestep"][seen.tiers == tier] for tier in (0, 1)}
    # Two steps of four rows; four steps of two.
    assert [len(set(times[tier])) for tier in (0, 1)] == [2, 4]
    assert [len(times[tier]) for tier in (0, 1)] == [8, 8]
    assert seen.rows["sample"].shape == (16, 4, 8, 8)
    assert set(seen.rows[SCALE_NAME][seen.tiers == 0, 0]) == {1}
    assert set(seen.rows[SCALE_NAME][seen.tiers == 1, 0]) == {0}
    # Guided pictures have rows of the empty prompt too, unguided ones have none.
    texts = seen.rows["encoder_hidden_states"].reshape(16, -1)
    assert len(np.unique(texts[seen.tiers == 0], axis=0)) == len(PROMPTS)
    everything = collect(folder, reference, bank, PROMPTS, tier_rows=32)
    guided = everything.rows["encoder_hidden_states"][everything.tiers == 1]
    assert len(np.unique(guided.reshape(len(guided), -1), axis=0)) == len(PROMPTS) + 1


def test_trajectories_follow_from_their_seed(folder, bank, reference):
    first, again, other = (
        collect(folder, reference, bank, PROMPTS, seed=seed, tier_rows=8) for seed in (0, 0, 1)
    )
    for name, array in first.rows.items():
        np.testing.assert_array_equal(array, again.rows[name])
    assert not np.array_equal(first.rows["sample"], other.rows["sample"])


def test_another_unet_is_no_adapter(bank):
    np.testing.assert_array_equal(adapter_scales(bank, "student"), [1])
    np.testing.assert_array_equal(adapter_scales(bank, "base"), [0])
    with pytest.raises(ModelNotReady, match="'full' are another UNet"):
        adapter_scales(bank, "full")


def test_the_key_differs_by_precision_and_by_what_it_was_calibrated_with(folder, bank, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    keys = {name: build_key(folder, "unet", "sm_89", bank, name) for name in ("f16", *EIGHT_BITS)}
    assert len({key.digest() for key in keys.values()}) == len(keys)
    beside = EngineCache(tmp_path, single=True)
    assert len({beside.entry_path(key) for key in keys.values()}) == len(keys)
    prompts = folder.path / PROMPTS_PATH
    text = prompts.read_text()
    try:
        prompts.write_text("something else")
        other = {name: build_key(folder, "unet", "sm_89", bank, name) for name in keys}
    finally:
        prompts.write_text(text)
    assert [name for name in keys if other[name] != keys[name]] == list(EIGHT_BITS)
    with pytest.raises(ModelNotReady, match="--backend tensorrt_rtx --precision int8`"):
        find_build(folder, keys["int8"], tmp_path)


@pytest.mark.parametrize(("precision", "device"), [("int8", "sm_86"), ("fp8", "sm_89")])
def test_engines_are_built_without_a_gpu(folder, build, bank, precision, device, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    cache = EngineCache(tmp_path / "cache")
    with TensorRtRtxBuilder(folder, "unet", build, bank, cache, precision=precision) as builder:
        builder.build(tmp_path, device)
        assert builder.check.max_difference > 0
    content = (tmp_path / ENGINE_NAME).read_bytes()
    assert content.startswith(b"vtrt")
    assert len(content) > 200_000


@pytest.mark.parametrize(
    ("backend", "precision", "device", "said"),
    [
        ("tensorrt_rtx", "fp8", "sm_86", "sm_86 cannot compute in fp8: that needs sm_89"),
        ("tensorrt_rtx", "int4", "sm_89", "no precision 'int4'; there are f16, int8, fp8"),
        ("onnxruntime", "int8", "sm_89", "onnxruntime has no engines in int8; only tensorrt_rtx"),
        ("tensorrt", "fp8", "sm_90", "tensorrt has no engines in fp8; only tensorrt_rtx"),
    ],
)
def test_what_cannot_be_built_is_said_before_anything_is(
    folder, tmp_path, monkeypatch, backend, precision, device, said
):
    monkeypatch.setattr(build_module, "_build_module", None)
    with pytest.raises(ModelNotReady, match=said):
        check_precision(backend, precision, [device])
    with pytest.raises(ModelNotReady, match=said):
        build_model(
            folder, backend=backend, cache_dir=tmp_path, devices=[device], precision=precision
        )


def test_the_command_line_says_so_too(folder, tmp_path):
    command = ["build", str(folder.path), "--precision", "fp8", "--cache-dir", str(tmp_path)]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, ModelNotReady)
    assert "only tensorrt_rtx has" in str(result.exception)


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_a_backend_without_it_is_not_given_another(folder, backend):
    with pytest.raises(ModelNotReady, match=f"{backend} has no engines in int8"):
        load_engine(folder, "unet", backend=backend, precision="int8")


@pytest.mark.parametrize(
    ("precision", "devices"),
    [("int8", ("sm_80", "sm_86", "sm_89", "sm_120")), ("fp8", ("sm_89", "sm_120"))],
)
def test_gpus_without_it_are_left_out_unless_they_are_asked_for(precision, devices):
    pytest.importorskip("tensorrt_rtx")
    assert tuple(target_devices("tensorrt_rtx", (), precision)) == devices
    assert tuple(target_devices("tensorrt_rtx", ["sm_120"], precision)) == ("sm_120",)


def test_what_cannot_be_served_in_it_is_said_to_be_so(folder, build, bank, tmp_path, monkeypatch):
    monkeypatch.setattr(simulation, "TOLERANCE", 1e-6)
    with (
        TensorRtRtxBuilder(
            folder, "unet", build, bank, EngineCache(tmp_path), precision="int8"
        ) as builder,
        pytest.raises(ModelNotReady, match=r"unet of tiny cannot be served in int8: in 8 bits its"),
    ):
        _ = builder.check


class Library:
    """TensorRT-RTX without a GPU: it says what it is given and takes it, or does not."""

    def __init__(self, engine):
        self.read, self._engine = [], engine

    class Logger:
        WARNING = 2

        def __init__(self, severity):
            pass

    def Runtime(self, logger):
        return self

    def deserialize_cuda_engine(self, content):
        self.read.append(content)
        return self._engine


@pytest.fixture
def engines_of(folder, bank, tmp_path, monkeypatch):
    """A cache with an engine in each precision, which are their names, and who reads them."""
    pytest.importorskip("tensorrt_rtx")
    cache = EngineCache(tmp_path)
    for precision in ("f16", "int8"):
        with cache.writing(build_key(folder, "unet", "sm_89", bank, precision)) as target:
            (target / ENGINE_NAME).write_text(precision)
    monkeypatch.setattr(tensor_rt_rtx, "gpu_device", lambda: "sm_89")
    monkeypatch.setattr(execution_lane, "CudaDevice", HostDevice)
    monkeypatch.setattr(Plan, "_difference", lambda *_: "")

    def load(precision, engine):
        library = Library(engine)
        monkeypatch.setattr(tensor_rt_rtx, "import_module", lambda _: library)
        loaded = load_engine(
            folder, "unet", backend="tensorrt_rtx", precision=precision, cache=cache
        )
        return loaded, library.read

    return load


@pytest.mark.parametrize("precision", ["f16", "int8"])
def test_the_engine_of_the_precision_is_loaded_and_says_so(engines_of, precision):
    engine, read = engines_of(precision, object())
    assert read == [precision.encode()]
    assert engine.precision == precision


@pytest.mark.parametrize(("precision", "option"), [("f16", ""), ("int8", " --precision int8")])
def test_an_engine_that_is_not_taken_is_built_again_in_its_precision(engines_of, precision, option):
    with pytest.raises(ModelNotReady, match=f"--backend tensorrt_rtx{option}`"):
        engines_of(precision, None)


def test_only_a_unet_goes_below_f16():
    assert module_precision("unet", "int8") == "int8"
    assert module_precision("vae_decoder", "int8") == "f16"


def test_without_modelopt_it_says_what_to_install(folder, tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setitem(sys.modules, "modelopt.onnx.quantization", None)
    monkeypatch.setattr(build_module, "_build_module", None)
    with pytest.raises(ModelNotReady, match=r'pip install "sangsang\[quantize\]"'):
        build_model(folder, backend="tensorrt_rtx", cache_dir=tmp_path, precision="int8")


@pytest.mark.parametrize("content", [None, "", "\n".join(["a cat"] * 257)])
def test_without_prompts_it_says_what_to_write(folder, content):
    prompts = folder.path / PROMPTS_PATH
    text = prompts.read_text()
    try:
        prompts.unlink() if content is None else prompts.write_text(content)
        with pytest.raises(ModelNotReady, match=r"calibration.*prompts\.txt"):
            recipe(folder, "int8")
        assert recipe(folder, "f16") == ""
    finally:
        prompts.write_text(text)
    assert read_prompts(folder) == PROMPTS


def test_the_shipped_model_has_prompts():
    pocket = ModelFolder.open(Path(__file__).parents[2] / "deploy" / "models" / "pocket")
    assert len(read_prompts(pocket)) == 32


def test_scales_are_numbers_of_f16(converted):
    """The graph computes in f16, so a scale that f16 does not know would be another one there."""
    graph = ir.load(converted["int8"]).graph
    scales = [v for name, v in graph.initializers.items() if ".int8.scale" in name]
    assert len(scales) > 20
    for value in scales:
        array = value.const_value.numpy()
        assert array.dtype == np.float16
        assert (array >= np.finfo(np.float16).smallest_normal).all()
        np.testing.assert_array_equal(half_of(array.astype(np.float32)), array)
