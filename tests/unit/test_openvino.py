"""OpenVINO computes what torch computes, in the same bits in any batch, and caches by the rules."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from random_adapters import ATTENTION, make_random_adapter
from random_models import make_random_model

from sangsang.services.runtime.building import compiling
from sangsang.services.runtime.building.build import build_model
from sangsang.services.runtime.building.export import example_inputs
from sangsang.services.runtime.engines import openvino_cpu
from sangsang.services.runtime.engines.adapter_bank import SCALE_NAME, open_bank
from sangsang.services.runtime.engines.cache import EngineCache
from sangsang.services.runtime.engines.engine import Engine
from sangsang.services.runtime.engines.loading import load_engine
from sangsang.services.runtime.errors import ModelNotReady, StageFailed
from sangsang.services.runtime.models.folder import MODULE_NAMES, ModelFolder

POCKET = Path(__file__).parents[2] / "deploy" / "models" / "pocket"
SETS = {"student": {"adapter": "adapters/student"}, "style": {"adapter": "adapters/style"}}
# 24 channels: half of them is no multiple of a vector register.
WIDTHS = {"block_out_channels": (24, 32), "attention_head_dim": (3, 4)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with two adapters: of every layer with differing ranks, and of attention.

    Its weights are f32 and so mapped from their files; the shipped model's are f16.
    """
    path = make_random_model(tmp_path_factory.mktemp("models") / "tiny", unet=WIDTHS)
    ranks = {"r": 4, "rank_pattern": {"conv1": 2, "to_q": 7}, "lora_alpha": 9}
    make_random_adapter(path, path / "adapters" / "student", **ranks)
    make_random_adapter(path, path / "adapters" / "style", seed=1, targets=ATTENTION, r=1)
    (path / "sangsang.json").write_text(json.dumps({"weights": SETS}))
    return ModelFolder.open(path)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def report(folder, cache_dir):
    return build_model(folder, backend="openvino", cache_dir=cache_dir, max_step_count=2)


@pytest.fixture
def models(folder, report):
    """The random model and the shipped one, whose graphs lie beside it."""
    return {"random": folder, "pocket": ModelFolder.open(POCKET)}


@pytest.fixture
def built(folder, report):
    return folder


def load(folder, module, cache_dir, backend="openvino", **options) -> Engine:
    return load_engine(folder, module, backend=backend, cache=cache_dir, **options)


def inputs_of(folder, module, batch, sides, *, scales="mixed", tokens=None):
    inputs = example_inputs(folder, module, batch, sides, seed=3)
    if module == "unet":
        slots = len(open_bank(folder).slot_names)
        values = np.random.default_rng(1).uniform(-1, 2, (batch, slots)).astype(np.float32)
        values[1::2] = 0
        inputs[SCALE_NAME] = values if scales == "mixed" else np.zeros_like(values)
        inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"][:, :tokens].copy()
    return inputs


def rows(inputs, part):
    return {name: array[part] for name, array in inputs.items()}


def output_of(engine, inputs):
    return engine.infer(inputs)[engine.outputs[0].name]


def entry(cache_dir, folder, module="text_encoder"):
    bank = open_bank(folder) if module == "unet" else None
    key = openvino_cpu.build_key(folder, module, bank, threads=1)
    return EngineCache(cache_dir).entry_path(key)


def test_a_build_compiles_and_checks_every_module(report):
    compiled = [module for module in report.modules if module.module.endswith(", compiled")]
    assert [module.module for module in compiled] == [f"{m}, compiled" for m in MODULE_NAMES]
    assert not any(module.reused for module in compiled)
    assert all(module.row_exact for module in compiled)
    # A second implementation that differs nowhere would be the same one.
    assert 0 < max(module.max_difference for module in compiled) < 2e-5


def test_a_compiled_module_that_computes_something_else_is_refused(built, cache_dir, tmp_path):
    cache = shutil.copytree(cache_dir, tmp_path / "cache")
    shutil.rmtree(entry(cache, built))
    with pytest.MonkeyPatch.context() as patch:
        read = openvino_cpu.read_weights
        patch.setattr(
            openvino_cpu,
            "read_weights",
            lambda *a: {name: array * np.float32(1.01) for name, array in read(*a).items()},
        )
        with pytest.raises(ModelNotReady, match="text_encoder differs from onnxruntime by"):
            compiling.compile_and_check(built, "text_encoder", EngineCache(cache))
    assert not entry(cache, built).exists()


@pytest.mark.parametrize("module", MODULE_NAMES)
@pytest.mark.parametrize("model", ["random", "pocket"])
def test_an_engine_computes_what_torch_computes(models, cache_dir, model, module):
    folder = models[model]
    engine = load(folder, module, cache_dir)
    reference = load(folder, module, cache_dir, "torch")
    assert (engine.inputs, engine.outputs) == (reference.inputs, reference.outputs)
    assert (engine.name, engine.backend, engine.precision) == (module, "openvino", "f32")
    assert engine.digest == reference.digest
    for batch, sides in ((1, (4, 4)), (3, (5, 6)), (2, (8, 2))):
        inputs = inputs_of(folder, module, batch, sides)
        expected, actual = output_of(reference, inputs), output_of(engine, inputs)
        assert actual.dtype == np.float32
        largest = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(actual, expected, atol=2e-5 * largest)


def test_adapters_change_the_rows_that_use_them_and_no_others(built, cache_dir):
    engine = load(built, "unet", cache_dir)
    inputs = inputs_of(built, "unet", 4, (3, 4))
    mixed = output_of(engine, inputs)
    plain = output_of(engine, {k: v for k, v in inputs.items() if k != SCALE_NAME})
    # A batch without any adapter has the bits that its rows have beside others with some.
    np.testing.assert_array_equal(mixed[1::2], plain[1::2])
    assert np.abs(mixed[::2] - plain[::2]).max() > 0.01


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("module", MODULE_NAMES)
@pytest.mark.parametrize("model", ["random", "pocket"])
def test_a_row_has_the_same_bits_in_any_batch_and_slot(models, cache_dir, model, module, threads):
    folder = models[model]
    engine = load(folder, module, cache_dir, threads=threads)
    # Three sizes in turn, as requests come: what is kept from call to call must not show.
    cases = [
        inputs_of(folder, module, 8, sides, tokens=tokens)
        for sides, tokens in (((4, 6), None), ((1, 1), None), ((2, 1), 1))
    ]
    together = [output_of(engine, inputs) for inputs in cases]
    for batch in (1, 2, 3, 5, 7):
        for first in {0, 1, 8 - batch}:
            part = slice(first, first + batch)
            for inputs, expected in zip(cases, together, strict=True):
                alone = output_of(engine, rows(inputs, part))
                np.testing.assert_array_equal(alone, expected[part])


def test_calls_of_several_threads_do_not_mix(built, cache_dir):
    engine = load(built, "unet", cache_dir)
    cases = [inputs_of(built, "unet", batch, (2, 3)) for batch in (1, 2, 3, 4)] * 4
    expected = [output_of(engine, inputs) for inputs in cases]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda inputs: output_of(engine, inputs), cases))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_answer_is_not_overwritten_by_the_next(built, cache_dir):
    engine = load(built, "text_encoder", cache_dir)
    first, second = (example_inputs(built, "text_encoder", 2, (1, 1), seed) for seed in (0, 1))
    answer = output_of(engine, first)
    kept = answer.copy()
    output_of(engine, second)
    np.testing.assert_array_equal(answer, kept)


def test_inputs_as_they_come_from_the_wire_cannot_be_written(built, cache_dir):
    engine = load(built, "unet", cache_dir)
    inputs = inputs_of(built, "unet", 2, (2, 2))
    frozen = {n: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) for n, a in inputs.items()}
    assert not any(array.flags.writeable for array in frozen.values())
    np.testing.assert_array_equal(output_of(engine, frozen), output_of(engine, inputs))


@pytest.mark.parametrize("token", [-1, 10**6])
def test_a_token_outside_the_vocabulary_is_refused(built, cache_dir, token):
    engine = load(built, "text_encoder", cache_dir)
    tokens = np.zeros((1, built.token_limit), np.int64)
    output_of(engine, {"input_ids": tokens})
    tokens[0, 3] = token
    with pytest.raises(ValueError, match="input_ids must be at least 0 and below"):
        output_of(engine, {"input_ids": tokens})


def test_bad_inputs_are_refused_before_the_backend_sees_them(built, cache_dir):
    engine = load(built, "unet", cache_dir)
    inputs = inputs_of(built, "unet", 1, (2, 2))
    with pytest.raises(ValueError, match="multiples of 2"):
        engine.infer({**inputs, "sample": inputs["sample"][:, :, :3]})


def test_a_closed_engine_says_so(built, cache_dir):
    engine = load(built, "text_encoder", cache_dir)
    engine.close()
    with pytest.raises(StageFailed, match="text_encoder has been closed"):
        output_of(engine, example_inputs(built, "text_encoder", 1, (1, 1)))


def compiled_anew(monkeypatch):
    """Notes the modules that are compiled from now on."""
    seen = []
    compile_module = openvino_cpu._compile
    monkeypatch.setattr(
        openvino_cpu, "_compile", lambda *a: (seen.append(a[1]), compile_module(*a))
    )
    return seen


def test_what_is_compiled_is_loaded_and_not_compiled_again(built, cache_dir, monkeypatch):
    seen = compiled_anew(monkeypatch)
    first = load(built, "text_encoder", cache_dir)
    assert seen == []
    inputs = example_inputs(built, "text_encoder", 2, (1, 1))
    np.testing.assert_array_equal(
        output_of(first, inputs), output_of(load(built, "text_encoder", cache_dir), inputs)
    )


def change_blob(path):
    content = bytearray((path / "model.blob").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "model.blob").write_bytes(content)


def cut_blob(path):
    content = (path / "model.blob").read_bytes()
    (path / "model.blob").write_bytes(content[: len(content) // 2])


def remove_blob(path):
    (path / "model.blob").unlink()


def remove_entry(path):
    shutil.rmtree(path)


@pytest.mark.parametrize("harm", [change_blob, cut_blob, remove_blob, remove_entry])
def test_a_damaged_or_missing_compilation_is_made_again(
    built, cache_dir, tmp_path, monkeypatch, harm
):
    cache = shutil.copytree(cache_dir, tmp_path / "cache")
    inputs = example_inputs(built, "text_encoder", 2, (1, 1))
    expected = output_of(load(built, "text_encoder", cache), inputs)
    harm(entry(cache, built))
    seen = compiled_anew(monkeypatch)
    np.testing.assert_array_equal(output_of(load(built, "text_encoder", cache), inputs), expected)
    load(built, "text_encoder", cache)
    assert seen == ["text_encoder"]
    assert not [p for p in (cache / "openvino").iterdir() if p.name.endswith((".old", "tmp"))]


def test_the_key_holds_all_that_is_compiled_in(built, monkeypatch, tmp_path):
    def digest(folder=built, threads=1):
        bank = open_bank(folder)
        return openvino_cpu.build_key(folder, "unet", bank, threads).digest()

    known = {digest()}
    assert digest() in known
    known.add(digest(threads=2))
    path = shutil.copytree(built.path, tmp_path / "other")
    swapped = {"student": SETS["style"], "style": SETS["student"]}
    (path / "sangsang.json").write_text(json.dumps({"weights": swapped}))
    known.add(digest(ModelFolder.open(path)))
    monkeypatch.setattr(openvino_cpu, "_device", lambda: "x86_64-another")
    known.add(digest())
    monkeypatch.setattr(openvino_cpu.ov, "get_version", lambda: "2031.1")
    known.add(digest())
    monkeypatch.setattr(openvino_cpu.onnx_runtime, "GRAPH_VERSION", "opset99")
    known.add(digest())
    assert len(known) == 6


def test_a_cache_that_cannot_be_written_says_what_to_do(built, cache_dir, tmp_path):
    cache = shutil.copytree(cache_dir, tmp_path / "cache")
    shutil.rmtree(cache / "openvino")
    (cache / "openvino").write_text("a file where the folder should be")
    with pytest.raises(ModelNotReady, match="set SANGSANG_CACHE_DIR to a folder that can be"):
        load(built, "text_encoder", cache)


def test_what_has_no_graph_says_what_to_do(built, tmp_path):
    with pytest.raises(ModelNotReady, match="run `sangsang build"):
        load(built, "unet", tmp_path)


def test_serving_imports_nothing_heavy_and_reports_to_nobody(built, cache_dir):
    code = (
        "import sys, urllib.request\n"
        "def refuse(*args, **kwargs): raise SystemExit('something called home')\n"
        "urllib.request.urlopen = refuse\n"
        "from pathlib import Path\n"
        "from sangsang.services.runtime.engines.loading import load_engine\n"
        "from sangsang.services.runtime.models.folder import MODULE_NAMES, ModelFolder\n"
        "folder = ModelFolder.open(Path(sys.argv[1]))\n"
        "for module in MODULE_NAMES:\n"
        "    load_engine(folder, module, backend='openvino', cache=Path(sys.argv[2]))\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'onnx', 'onnxscript'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert 'openvino' in sys.modules\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(built.path), str(cache_dir)], check=True)
