"""Building engines of TensorRT, on a scripted one: what is built, checked, kept and refused."""

import json
import signal
import subprocess
import sys
from dataclasses import asdict
from importlib.util import find_spec

import onnx
import pytest
from host_device import GPU
from onnx import TensorProto, helper
from scripted_machine import (
    GRAPHS,
    build_one,
    key,
)

from sangsang.services.runtime.building.builder_process import BuildTask, run_builder
from sangsang.services.runtime.building.failures import ExportFailed
from sangsang.services.runtime.building.fusing.fuse import PATTERNS
from sangsang.services.runtime.building.tensor_rt import TensorRtBuilder
from sangsang.services.runtime.building.tensor_rt_rtx import TensorRtRtxBuilder
from sangsang.services.runtime.engines.adapter_bank import open_bank
from sangsang.services.runtime.engines.cache import BuildKey, EngineCache, NotBuilt
from sangsang.services.runtime.engines.tensor_rt import BACKEND, BUCKETS, PLAN_NAME, PLUGINS
from sangsang.services.runtime.engines.tensor_rt_rtx import ENGINE_NAME
from sangsang.services.runtime.engines.tensor_rt_sizes import bucket_profiles
from sangsang.services.runtime.errors import ModelNotReady
from sangsang.services.runtime.models.folder import MODULE_NAMES

pytestmark = pytest.mark.skipif(
    find_spec("tensorrt_bindings") is None or find_spec("triton") is None,
    reason="TensorRT's plugin layer or triton is missing: pip install 'sangsang[kernels-test]'",
)


def test_every_module_is_built_with_our_kernels_and_checked(folder, machine, built):
    cache, reports = built
    for module in MODULE_NAMES:
        report = reports[module]
        assert report.module == f"{module}, {GPU.describe()}"
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


def test_timings_are_read_and_added_to_unless_they_are_of_another_gpu(machine, tmp_path):
    file = tmp_path / "timing.cache"
    graph = strange_graph(tmp_path / "graph.onnx", domain="")
    for before, after in (
        (b"timings of Scripted GPU\nfast\n", b"timings of Scripted GPU\nfast\ntimed g\n"),
        (b"timings of Another GPU\nslow\n", b"timings of Scripted GPU\ntimed g\n"),
    ):
        file.write_bytes(before)
        task = BuildTask(
            *("tensorrt", str(graph), str(tmp_path / "e"), (PROFILE,)), timing_cache=str(file)
        )
        run_builder(task)
        assert file.read_bytes() == after


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
        "cache = EngineCache(Path(sys.argv[1]))\n"
        "key = BuildKey('text_encoder', 'd', 'tensorrt', 'v')\n"
        "with cache.scratch('tensorrt') as one, cache.writing(key) as two:\n"
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
    with (
        cache.scratch(BACKEND) as empty,
        cache.writing(BuildKey("text_encoder", "d", BACKEND, "v")),
    ):
        assert list(empty.iterdir()) == []
        # What is in use is left alone.
        with cache.scratch(BACKEND) as other:
            assert empty.exists()
            assert other != empty
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
    task = BuildTask("tensorrt", str(graph), str(tmp_path / "e"), ())
    command = [sys.executable, "-c", starter, str(tmp_path / "slow.py"), json.dumps(asdict(task))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "building\n"
        process.kill()
        process.wait(20)
        # Its end of the pipe closes when it ends.
        assert process.stdout.read() == ""


def strange_graph(path, domain):
    kind = "Strange" if domain else "Relu"
    node = helper.make_node(kind, ["x"], ["y"], "the_node", domain=domain)
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


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
@pytest.mark.parametrize("module", MODULE_NAMES)
def test_a_graph_with_nodes_of_ours_in_f16_is_one_that_tensorrts_parser_takes(
    folder, tmp_path, module
):
    """TensorRT-RTX has the same parser and builder, and knows no plugin: it takes the functions."""
    patterns = tuple(one for one in PATTERNS if one.name in PLUGINS)
    bank = open_bank(folder) if module == "unet" else None
    cache, graph = EngineCache(tmp_path), GRAPHS / module
    with TensorRtRtxBuilder(folder, module, graph, bank, cache, patterns) as builder:
        builder.build(tmp_path, "sm_89")
        assert (builder.fused_count > 0) == (module != "text_encoder")
    assert (tmp_path / ENGINE_NAME).read_bytes().startswith(b"vtrt")
