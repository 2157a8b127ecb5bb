"""The `tensorrt` backend on a scripted TensorRT and the CPU's memory: all but a GPU's own work.

What is scripted has the real one's names (`test_tensor_rt_names.py`) and computes by ONNX Runtime from
the addresses that it is given, so padding, parts, bindings and graphs show in the numbers.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from host_device import GPU, HostDevice, aligned
from onnx import TensorProto, helper

from sangsang.services.runtime.building import build as build_module
from sangsang.services.runtime.building.build import build_model
from sangsang.services.runtime.building.builder_process import BuildTask, run_builder
from sangsang.services.runtime.building.engine_builds import build_engines
from sangsang.services.runtime.building.failures import ExportFailed
from sangsang.services.runtime.building.half_checking import TOLERANCE, example_calls
from sangsang.services.runtime.building.reports import BuildPlace
from sangsang.services.runtime.building.tensor_rt import TensorRtBuilder
from sangsang.services.runtime.engines import execution_lane, tensor_rt
from sangsang.services.runtime.engines.adapter_bank import open_bank
from sangsang.services.runtime.engines.cache import EngineCache, NotBuilt
from sangsang.services.runtime.engines.execution_lane import ExecutionLane
from sangsang.services.runtime.engines.loading import load_engine
from sangsang.services.runtime.engines.tensor_rt import BACKEND, BUCKETS, PLAN_NAME, build_key
from sangsang.services.runtime.engines.tensor_rt_sizes import bucket_profiles
from sangsang.services.runtime.errors import ModelNotReady, StageFailed
from sangsang.services.runtime.models.folder import ModelFolder

SUPPORT = Path(__file__).parents[1] / "support"
SCRIPTED = SUPPORT / "scripted_tensorrt"
POCKET = Path(__file__).parents[2] / "deploy" / "models" / "pocket"
GRAPHS = POCKET / "engines" / "onnxruntime"

pytestmark = pytest.mark.skipif(
    find_spec("tensorrt_bindings") is None or find_spec("triton") is None,
    reason="TensorRT's plugin layer or triton is missing: pip install 'sangsang[kernels-test]'",
)


@pytest.fixture(scope="module")
def folder():
    return ModelFolder.open(POCKET)


class Machine:
    """A machine with the scripted TensorRT and a GPU whose memory is the CPU's."""

    def __init__(self, patch):
        self._patch = patch
        patch.syspath_prepend(SCRIPTED)
        paths = os.pathsep.join([str(SCRIPTED), str(SUPPORT)])
        patch.setenv("PYTHONPATH", paths)
        self.device = HostDevice()
        patch.setattr(execution_lane, "CudaDevice", lambda: self.device)
        patch.setattr(tensor_rt, "CudaDevice", lambda: self.device)
        self.change("")

    def change(self, settings):
        """Starts it anew with other settings; see the scripted module."""
        forget()
        self._patch.setenv("SCRIPTED_TENSORRT", settings)
        import tensorrt

        self.tensorrt = sys.modules["tensorrt"]
        assert self.tensorrt is not tensorrt or tensorrt.CALLS == []

    @property
    def calls(self):
        return self.tensorrt.CALLS


def forget():
    for name in [one for one in sys.modules if one.split(".")[0] == "tensorrt"]:
        del sys.modules[name]


@pytest.fixture
def machine(monkeypatch):
    yield Machine(monkeypatch)
    forget()


@pytest.fixture(scope="module")
def built(folder, tmp_path_factory):
    """All of the shipped model, once: other tests must not change it."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        Machine(patch)
        report = build_model(folder, backend=BACKEND, cache_dir=place, max_step_count=2)
        forget()
    return EngineCache(place), {one.module: one for one in report.modules}


def key(folder, module, **changes):
    return build_key(folder, module, GPU, open_bank(folder) if module == "unet" else None, **changes)


def build_one(folder, module, cache):
    """The report of one module."""
    place = BuildPlace(cache)
    devices, graph = [GPU.describe()], GRAPHS / module
    [report] = build_engines(
        BACKEND, folder, module, graph, place, cache, devices, lambda _: None
    )
    return report


def load(folder, module, cache, lane=None):
    return load_engine(folder, module, backend=BACKEND, cache=cache, lane=lane)


def assert_near(engine, folder, module, call):
    reference = load_engine(folder, module)
    name = reference.outputs[0].name
    expected, actual = reference.infer(call)[name], engine.infer(call)[name]
    assert actual.shape == expected.shape
    most = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * most)


def decoder_call(folder, rows, side=8, seed=0):
    shape = (rows, folder.latent_channels, side, side)
    return {"latents": np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)}


# Building


def test_every_module_is_built_with_our_kernels_and_checked(folder, machine, built):
    cache, reports = built
    for module in ("text_encoder", "vae_encoder", "unet", "vae_decoder"):
        report = reports[f"{module}, {GPU.describe()}"]
        assert not report.reused
        assert 0 < report.max_difference < 1
        facts = json.loads(cache.read(key(folder, module), PLAN_NAME).partition(b"\n")[0])
        assert facts["aux_streams"] == 0
        bank = open_bank(folder) if module == "unet" else None
        expected = [
            {name: [list(shape) for shape in sizes] for name, sizes in profile.items()}
            for profile in bucket_profiles(folder, module, bank, BUCKETS)
        ]
        assert facts["profiles"] == expected
        kinds = {"vae_encoder": {"GroupNormSilu"}, "unet": {"Geglu", "GroupNormSilu"}}
        kinds["vae_decoder"] = kinds["vae_encoder"]
        assert set(facts["plugins"]) == kinds.get(module, set())


def test_profiles_are_exact_for_the_usual_picture_and_a_range_for_others(folder):
    profiles = bucket_profiles(folder, "unet", None, BUCKETS)
    channels = folder.latent_channels
    assert [profile["sample"] for profile in profiles] == [
        tuple((rows, channels, side, side) for side in sides)
        for rows in BUCKETS
        for sides in ((8, 8, 8), (4, 8, 16))
    ]
    assert [profile["timestep"] for profile in profiles[::2]] == [((b,),) * 3 for b in BUCKETS]
    # A text has no size.
    assert len(bucket_profiles(folder, "text_encoder", None, BUCKETS)) == len(BUCKETS)


def test_nothing_of_a_build_is_left_but_the_plan_and_the_timings(machine, built):
    cache, _ = built
    found = sorted(path.name for path in (cache.root / BACKEND).iterdir() if path.is_dir())
    assert len(found) == 4
    assert not [name for name in found if name.startswith(".")]
    timings = list((cache.root / BACKEND).glob("timing-*.cache"))
    assert len(timings) == 1
    # Each build began with what those before it had measured.
    assert len(timings[0].read_bytes().splitlines()) == 2
    assert timings[0].read_bytes().startswith(b"timings of Scripted GPU")


def test_timings_of_another_gpu_are_not_taken(folder, machine, tmp_path):
    cache = EngineCache(tmp_path)
    build_one(folder, "text_encoder", cache)
    [file] = (tmp_path / BACKEND).glob("timing-*.cache")
    file.write_bytes(b"timings of Another GPU\nfast\n")
    (cache.entry_path(key(folder, "text_encoder")) / PLAN_NAME).unlink()
    build_one(folder, "text_encoder", cache)
    assert file.read_bytes().startswith(b"timings of Scripted GPU")


def test_a_second_build_starts_no_process(folder, machine, built):
    cache, _ = built
    machine.change("refuse")
    assert build_one(folder, "vae_decoder", cache).reused


def test_what_computes_something_else_is_not_kept(folder, machine, tmp_path):
    machine.change("wrong")
    cache = EngineCache(tmp_path)
    with pytest.raises(ModelNotReady, match=r"TensorRT cannot build vae_decoder.*differs"):
        build_one(folder, "vae_decoder", cache)
    with pytest.raises(NotBuilt):
        cache.find(key(folder, "vae_decoder"))


def test_a_build_that_is_killed_leaves_nothing(folder, machine, tmp_path):
    machine.change("crash")
    cache = EngineCache(tmp_path)
    with pytest.raises(ModelNotReady, match=r"ended by SIGKILL.*build it again"):
        build_one(folder, "text_encoder", cache)
    with pytest.raises(NotBuilt):
        cache.find(key(folder, "text_encoder"))
    assert not [path for path in tmp_path.rglob("*") if path.is_dir() and path.name != BACKEND]


def test_a_builder_that_is_killed_is_swept_after(folder, machine, tmp_path):
    """The whole `sangsang build`, with its child's half of a plan and the converted graph."""
    code = (
        "import sys, time\n"
        "from sangsang.services.runtime.engines.cache import BuildKey, EngineCache\n"
        "from pathlib import Path\n"
        "cache, key = EngineCache(Path(sys.argv[1])), BuildKey('text_encoder', 'd', 'tensorrt', 'v')\n"
        "with cache.scratch('tensorrt', 'text_encoder-d') as one, cache.writing(key) as two:\n"
        "    [(place / 'half').write_bytes(b'half') for place in (one, two)]\n"
        "    print('there', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "there\n"
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    assert len(list(tmp_path.rglob("half"))) == 2
    cache = EngineCache(tmp_path)
    from sangsang.services.runtime.engines.cache import BuildKey

    with (
        cache.scratch(BACKEND, "text_encoder-d") as empty,
        cache.writing(BuildKey("text_encoder", "d", BACKEND, "v")),
    ):
        assert list(empty.iterdir()) == []
        assert list(tmp_path.rglob("half")) == []
    assert not empty.exists()


def test_the_builders_process_ends_with_the_one_that_started_it(machine, tmp_path):
    graph = strange_graph(tmp_path / "graph.onnx", domain="")
    (tmp_path / "slow.py").write_text(
        "import time, sangsang.services.runtime.building.tensor_rt_child as child\n"
        "child._build = lambda task: (print('building', flush=True), time.sleep(60), b'')[2]\n"
        "child.main()\n"
        "print('survived', flush=True)\n"
    )
    starter = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, *sys.argv[1:]])\n"
        "child.wait()\n"
    )
    task = json.dumps({"package": "tensorrt", "graph": str(graph), "engine": str(tmp_path / "e"), "profiles": []})
    command = [sys.executable, "-c", starter, str(tmp_path / "slow.py"), task]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "building\n"
        process.kill()
        process.wait(20)
        # Its end of the pipe closes when it ends.
        assert process.stdout.read() == ""


def strange_graph(path, domain):
    node = helper.make_node("Strange" if domain else "Relu", ["x"], ["y"], "the_node", domain=domain)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT16, ["b"]) for n in "xy")
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("nowhere", 1)]
    graph = helper.make_graph([node], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


PROFILE = {"x": ((1,), (1,), (1,))}


@pytest.mark.parametrize(
    ("settings", "domain", "changes", "said"),
    [
        ("", "nowhere", {}, r"Strange the_node is not taken .*another backend, e\.g\. torch"),
        ("refuse", "", {}, r"no implementation for node conv"),
        ("no-driver", "", {}, r"it does not start: no driver or GPU"),
        ("", "", {"plugins": ["Geglu"], "plugin_nodes": 1}, r"0 of 1 nodes became kernels of ours"),
    ],
    ids=["operator", "nothing built", "driver", "plugin not taken"],
)
def test_what_is_not_built_is_named(machine, tmp_path, settings, domain, changes, said):
    machine.change(settings)
    graph = strange_graph(tmp_path / "graph.onnx", domain)
    task = BuildTask("tensorrt", str(graph), str(tmp_path / "e"), (PROFILE,), architecture=90)
    for name, value in changes.items():
        object.__setattr__(task, name, value)
    with pytest.raises(ExportFailed, match=said):
        run_builder(task)
    assert not (tmp_path / "e").exists()


def test_plugins_are_taken_only_by_a_build_that_asks_for_them(folder, machine, tmp_path):
    with TensorRtBuilder(
        folder, "vae_decoder", GRAPHS / "vae_decoder", None, EngineCache(tmp_path), plugins=()
    ) as builder:
        builder.build(tmp_path, GPU.describe())
        assert builder.key("") != key(folder, "vae_decoder")
    facts = json.loads((tmp_path / PLAN_NAME).read_bytes().partition(b"\n")[0])
    assert facts["plugins"] == []


# Finding


@pytest.mark.parametrize("harm", ["cut", "changed", "removed", "writable"])
def test_a_damaged_plan_is_not_deserialised(folder, machine, tmp_path, harm):
    cache = EngineCache(tmp_path)
    build_one(folder, "text_encoder", cache)
    entry = cache.entry_path(key(folder, "text_encoder"))
    plan = entry / PLAN_NAME
    content = plan.read_bytes()
    if harm == "removed":
        plan.unlink()
    elif harm == "writable":
        entry.chmod(0o777)
    else:
        plan.write_bytes(content[:-1] if harm == "cut" else content[:-1] + b"?")
    machine.calls.clear()
    with pytest.raises(ModelNotReady, match=r"run `sangsang build .* --backend tensorrt`"):
        load(folder, "text_encoder", cache)
    assert machine.calls == []
    if harm != "writable":
        assert not build_one(folder, "text_encoder", cache).reused
        load(folder, "text_encoder", cache).close()


def test_a_plan_beside_a_model_is_not_looked_at(folder, machine, built, tmp_path):
    """It came with the model, from anywhere; its own list of sums proves nothing."""
    model = tmp_path / "model"
    import shutil

    shutil.copytree(POCKET, model)
    cache, _ = built
    other = ModelFolder.open(model)
    entry = cache.entry_path(key(other, "vae_decoder"))
    shutil.copytree(entry, EngineCache.beside(other).entry_path(key(other, "vae_decoder")))
    with pytest.raises(ModelNotReady, match="not built"):
        load(other, "vae_decoder", tmp_path / "empty")


@pytest.mark.parametrize(
    "change", ["gpu", "driver", "version", "conversion", "buckets", "kernels", "triton", "ranks"]
)
def test_a_stale_key_finds_nothing(folder, machine, built, monkeypatch, change):
    cache, _ = built
    assert cache.read(key(folder, "unet"), PLAN_NAME)
    bank, gpu, plugins = open_bank(folder), GPU, tensor_rt.PLUGINS
    if change in ("gpu", "driver"):
        from dataclasses import replace

        other = {"gpu": {"name": "Other GPU"}, "driver": {"driver_version": "13.1"}}
        gpu = replace(GPU, **other[change])
    if change == "version":
        machine.change("version=11.4.0.107")
    if change == "conversion":
        monkeypatch.setattr(tensor_rt, "CONVERSION_VERSION", "other")
    if change == "buckets":
        monkeypatch.setattr(tensor_rt, "BUCKETS", (1, 2))
    if change == "kernels":
        plugins = ("Geglu",)
    if change == "triton":
        monkeypatch.setattr("sangsang.kernels.compiling.catalogue.version", lambda _: "9.9")
    if change == "ranks":
        bank.arrays[next(iter(bank.arrays))] = np.zeros((3, 3), np.float32)
    with pytest.raises(NotBuilt):
        cache.read(build_key(folder, "unet", gpu, bank, plugins), PLAN_NAME)


def test_a_kernels_source_is_in_the_key(folder, machine, monkeypatch, tmp_path):
    import shutil

    from sangsang.kernels.compiling import catalogue

    before = key(folder, "unet")
    shutil.copytree(catalogue._KERNELS / "geglu", tmp_path / "geglu")
    shutil.copytree(catalogue._KERNELS / "compiling", tmp_path / "compiling")
    shutil.copytree(catalogue._KERNELS / "group_norm_silu", tmp_path / "group_norm_silu")
    monkeypatch.setattr(catalogue, "_KERNELS", tmp_path)
    assert key(folder, "unet") == before
    with (tmp_path / "geglu" / "kernel.py").open("a") as file:
        file.write("# Another kernel.\n")
    assert key(folder, "unet") != before


@pytest.mark.parametrize(
    ("settings", "said"), [("gpu=Other GPU", "cannot load"), ("version=11.9", "not built")]
)
def test_a_plan_of_another_machine_is_refused(folder, machine, built, settings, said):
    """The key says so for another version; the GPU's own word is TensorRT's."""
    cache, _ = built
    machine.change(settings)
    with pytest.raises(ModelNotReady, match=said):
        load(folder, "vae_decoder", cache)


def test_a_plan_of_another_network_is_refused(folder, machine, built):
    cache, _ = built
    decoder = cache.read(key(folder, "vae_decoder"), PLAN_NAME)
    with pytest.raises(ModelNotReady, match=r"another engine: its inputs differ by latents"):
        tensor_rt.open_engine(folder, "vae_encoder", decoder)
    unet = cache.read(key(folder, "unet"), PLAN_NAME)
    with pytest.raises(ModelNotReady, match=r"another engine: its inputs differ by adapter"):
        tensor_rt.open_engine(folder, "unet", unet)


def test_a_plan_of_other_profiles_is_refused(folder, machine, built, monkeypatch):
    cache, _ = built
    content = cache.read(key(folder, "vae_decoder"), PLAN_NAME)
    monkeypatch.setattr(tensor_rt, "BUCKETS", (1, 2))
    with pytest.raises(ModelNotReady, match="it has 8 profiles"):
        tensor_rt.open_engine(folder, "vae_decoder", content)


def test_without_the_library_it_says_what_to_install(folder, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(build_module, "build_engines", None)
    for attempt in (
        lambda: load(folder, "unet", tmp_path),
        lambda: build_model(folder, backend=BACKEND, cache_dir=tmp_path),
    ):
        with pytest.raises(ModelNotReady, match=r'pip install "sangsang\[tensorrt\]"'):
            attempt()


def test_without_its_libraries_it_says_so(folder, machine, monkeypatch, tmp_path):
    """As where only the bindings are installed, or those of another release."""

    def missing(name):
        raise ImportError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr(tensor_rt, "import_module", missing)
    with pytest.raises(ModelNotReady, match=r"libnvinfer\.so\.11.*install the extra again"):
        load(folder, "unet", tmp_path)


def test_a_tensorrt_before_11_is_refused(folder, machine, tmp_path):
    machine.change("version=10.16.1")
    with pytest.raises(ModelNotReady, match=r"needs TensorRT 11 or newer, and 10\.16\.1"):
        load(folder, "unet", tmp_path)


def test_without_triton_it_says_so(folder, machine, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("sangsang.kernels.compiling.catalogue.version", missing)
    with pytest.raises(ModelNotReady, match="needs triton for our kernels"):
        key(folder, "unet")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_before_it_exports(folder, machine, monkeypatch, tmp_path):
    from sangsang.services.runtime.engines.cuda_device import CudaDevice

    monkeypatch.setattr(tensor_rt, "CudaDevice", CudaDevice)
    monkeypatch.setattr(build_module, "_build_module", None)
    for attempt in (
        lambda: load(folder, "unet", tmp_path),
        lambda: build_model(folder, backend=BACKEND, cache_dir=tmp_path),
    ):
        with pytest.raises(ModelNotReady, match=r"NVIDIA GPU.*take the backend onnxruntime"):
            attempt()


# Running


def profiles_of(machine):
    return [call[1] for call in machine.calls if call[0] == "profile"]


def executions(machine):
    return machine.calls.count("execute")


@pytest.mark.parametrize("module", ["text_encoder", "vae_encoder", "unet", "vae_decoder"])
def test_a_batch_of_any_size_gives_what_onnx_runtime_gives(folder, machine, built, module):
    engine = load(folder, module, built[0])
    bank = open_bank(folder) if module == "unet" else None
    # One that fills a bucket, one that is padded, one in parts, another size, and the first again.
    sides = (8, 8) if module.startswith("vae_d") else (2, 2)
    small = (4, 5) if module.startswith("vae_d") else (1, 2)
    shapes = [(1, sides), (3, sides), (11, sides), (2, small), (1, sides)]
    for call in example_calls(folder, module, bank, shapes):
        assert_near(engine, folder, module, call)
    engine.close()


def test_batches_are_padded_to_a_bucket_and_large_ones_go_in_parts(folder, machine, built):
    engine = load(folder, "vae_decoder", built[0])
    for rows, side, expected in ((3, 8, [4]), (1, 8, [0]), (3, 6, [5]), (11, 8, [6])):
        machine.calls.clear()
        engine.infer(decoder_call(folder, rows, side))
        assert profiles_of(machine) == expected
    machine.calls.clear()
    engine.infer(decoder_call(folder, 11))
    shapes = [call[2] for call in machine.calls if call[0] == "shape"]
    assert shapes == []
    # Eight rows by the graph, and three more, padded to four, by another.
    assert [graph.replay_count for graph in machine.device.graphs] == [1, 1]
    engine.close()


def test_a_size_that_no_profile_has_is_named(folder, machine, built):
    engine = load(folder, "vae_decoder", built[0])
    with pytest.raises(ValueError, match=r"sizes of the model's manifest, not for latents \[1, 4, 17"):
        engine.infer(decoder_call(folder, 1, 17))
    engine.close()


def test_a_graph_is_captured_after_a_run_with_its_shapes_and_then_replayed(folder, machine, built):
    engine = load(folder, "vae_decoder", built[0])
    device, calls = machine.device, [decoder_call(folder, 2, seed=seed) for seed in range(4)]
    engine.infer(calls[0])
    assert (executions(machine), len(device.graphs)) == (1, 0)
    engine.infer(calls[1])
    # The second is enqueued once, for the capture.
    assert (executions(machine), len(device.graphs)) == (2, 1)
    for call in calls[2:]:
        assert_near(engine, folder, "vae_decoder", call)
    assert (executions(machine), [graph.replay_count for graph in device.graphs]) == (2, [3])
    # Another bucket has its own, and leaves this one be.
    engine.infer(decoder_call(folder, 1))
    engine.infer(decoder_call(folder, 1))
    engine.infer(calls[0])
    assert [graph.replay_count for graph in device.graphs] == [4, 1]
    engine.close()


def test_a_graph_is_dropped_when_the_shape_changes(folder, machine, built):
    engine = load(folder, "vae_decoder", built[0])
    for side in (6, 6, 5, 6, 6):
        assert_near(engine, folder, "vae_decoder", decoder_call(folder, 2, side))
    # The first graph was of side 6; after side 5 it had to be captured again.
    assert [graph.replay_count for graph in machine.device.graphs] == [1, 1]
    engine.close()


def test_a_graph_is_dropped_when_the_arena_moves(folder, machine, built):
    lane = ExecutionLane()
    decoder, encoder = (load(folder, m, built[0], lane) for m in ("vae_decoder", "text_encoder"))
    call = decoder_call(folder, 1)
    decoder.infer(call)
    decoder.infer(call)
    before = lane.arena(0)
    encoder.infer({"input_ids": np.zeros((8, folder.token_limit), np.int64)})
    assert lane.arena(0).size_bytes > before.size_bytes
    machine.calls.clear()
    assert_near(decoder, folder, "vae_decoder", call)
    arena = lane.arena(0)
    assert ("arena", arena.address, arena.size_bytes) in machine.calls
    decoder.infer(call)
    assert len(machine.device.graphs) == 2
    decoder.close()
    encoder.close()


def test_an_engine_that_cannot_be_captured_is_launched_kernel_by_kernel(folder, machine, built):
    machine.device.refuses_capture = True
    engine = load(folder, "vae_decoder", built[0])
    for seed in range(4):
        assert_near(engine, folder, "vae_decoder", decoder_call(folder, 2, seed=seed))
    assert machine.device.graphs == []
    # One was for the capture that failed.
    assert executions(machine) == 5
    engine.close()


def test_the_order_of_calls(folder, machine, built):
    engine = load(folder, "vae_decoder", built[0])
    machine.calls.clear()
    engine.infer(decoder_call(folder, 2))
    kinds = [call if isinstance(call, str) else call[0] for call in machine.calls]
    expected = ["create_context", "profile", "shape", "address", "address", "arena", "execute"]
    assert kinds == expected
    engine.close()


def test_lanes_share_the_plan_and_nothing_else(folder, machine, built):
    first = load(folder, "vae_decoder", built[0], ExecutionLane(high_priority=True))
    second = first.in_lane(ExecutionLane())
    assert machine.calls.count("deserialize") == 1
    calls = [decoder_call(folder, 2, seed=seed) for seed in range(2)]
    errors = []

    def serve(engine, call):
        try:
            for _ in range(4):
                assert_near(engine, folder, "vae_decoder", call)
        except BaseException as exc:
            errors.append(exc)

    threads = [
        threading.Thread(target=serve, args=pair)
        for pair in zip((first, second), calls, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    arenas = {call[1] for call in machine.calls if call[0] == "arena"}
    addresses = [call[2] for call in machine.calls if call[0] == "address"]
    assert len(arenas) == 2
    assert len(set(addresses)) == len(addresses) == 4
    assert first._lane.stream is not second._lane.stream
    first.close()
    assert_near(second, folder, "vae_decoder", calls[1])
    second.close()


def test_only_the_diffusion_model_has_a_lane_of_high_priority(folder, machine, built):
    for module in ("text_encoder", "unet", "vae_decoder"):
        engine = load(folder, module, built[0])
        assert engine._lane.stream.high_priority == (module == "unet")
        engine.close()


def test_adapters_are_inputs_that_are_bound_once_for_a_context(folder, machine, built):
    engine = load(folder, "unet", built[0])
    bank = open_bank(folder)
    [call] = example_calls(folder, "unet", bank, [(1, (2, 2))])
    for scale in (0.0, 1.0, 0.0):
        call["adapter_scale"][:] = scale
        assert_near(engine, folder, "unet", call)
    bound = [call[1] for call in machine.calls if call[0] == "address"]
    assert set(bank.arrays) <= set(bound)
    assert len(bound) == len(set(bound))
    engine.close()


def tensors_for(engine, call):
    found = {name: aligned(torch.from_numpy(array)) for name, array in call.items()}
    [(name, output)] = engine.infer(call).items()
    return found | {name: aligned(torch.full(output.shape, float("nan")))}, output


def test_tensors_of_the_gpu_are_bound_where_they_are(folder, machine, built):
    engine = load(folder, "vae_decoder", built[0])
    tensors, expected = tensors_for(engine, decoder_call(folder, 2))
    machine.calls.clear()
    engine.run_in_place(tensors)
    bound = {call[1]: call[2] for call in machine.calls if call[0] == "address"}
    assert bound == {name: tensor.data_ptr() for name, tensor in tensors.items()}
    assert "caller's" in engine._lane.stream.waited_for
    np.testing.assert_array_equal(tensors["image"].numpy(), expected)
    graphs = len(machine.device.graphs)
    for _ in range(3):
        tensors["image"].fill_(float("nan"))
        # The same tensors: one graph. What has DLPack need not be torch's.
        engine.run_in_place(tensors | {"latents": tensors["latents"].numpy()})
        np.testing.assert_array_equal(tensors["image"].numpy(), expected)
    assert len(machine.device.graphs) == graphs + 1
    # Others: that graph would have written to the old ones.
    moved, expected = tensors_for(engine, decoder_call(folder, 2, seed=5))
    engine.run_in_place(moved)
    np.testing.assert_array_equal(moved["image"].numpy(), expected)
    engine.close()


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("latents", lambda x: x.double(), "latents must be float32"),
        ("latents", lambda x: x[:, :, :, ::2], "contiguous"),
        ("latents", lambda x: aligned(torch.zeros(3, *x.shape[1:])), "pad the rows"),
        ("latents", lambda x: x.flatten()[1:9], "contiguous, at a multiple of 256 bytes"),
        ("image", lambda x: aligned(x[:1]), "image must have shape"),
        ("image", lambda x: "picture", "image must be a tensor on the GPU"),
        ("more", lambda x: x, "not so: more"),
    ],
)
def test_tensors_that_cannot_be_bound_are_named(folder, machine, built, name, change, said):
    engine = load(folder, "vae_decoder", built[0])
    tensors, _ = tensors_for(engine, decoder_call(folder, 2))
    tensors[name] = change(tensors.get(name))
    with pytest.raises(ValueError, match=said):
        engine.run_in_place(tensors)
    engine.close()


def test_a_failure_of_the_gpu_ends_the_process_and_a_closed_engine_says_so(
    folder, machine, built, monkeypatch
):
    engine = load(folder, "vae_decoder", built[0])
    fails = lambda self, stream_handle: False
    monkeypatch.setattr(machine.tensorrt.IExecutionContext, "execute_async_v3", fails)
    with pytest.raises(StageFailed, match="failed in TensorRT") as caught:
        engine.infer(decoder_call(folder, 1))
    assert caught.value.fatal
    engine.close()
    with pytest.raises(StageFailed, match="closed"):
        engine.infer(decoder_call(folder, 1))
