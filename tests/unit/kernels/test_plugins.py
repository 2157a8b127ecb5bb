"""The plugins in TensorRT's own Python layer: what TensorRT would launch, for which shapes.

Everything but TensorRT itself: that it takes the PTX and gives it these arguments needs a GPU.
"""

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import plugin_launches
import pytest

import sangsang.kernels.geglu as kernels_geglu
from sangsang.kernels.attention.op import depth_blocks
from sangsang.kernels.attention.plugin import TILES, fitting_tactics
from sangsang.kernels.compiling.plugins import FLOATS

SUPPORT = Path(__file__).parents[2] / "support"


FULL = os.environ.get("SANGSANG_TEST_KERNELS") == "full"
# The layer is the same for all; `test_compiled.py` has the kernels for each.
ARCHITECTURES = (80, 89, 90) if FULL else (89,)
TYPES = ("FLOAT", "HALF", "BF16")
DEPTHS = (40, 64, 80, 160) if FULL else (40,)
RANKS = (4, 32, 128) if FULL else (128,)


@pytest.fixture(scope="module", params=ARCHITECTURES, ids=lambda architecture: f"sm_{architecture}")
def printed(request, tmp_path_factory):
    """What the plugins say, from a process in which Triton compiles."""
    for package in ("triton", "tensorrt_bindings"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'sangsang[kernels-test]'")
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, "-m", "plugin_launches", str(request.param)]
    command += ["full"] if FULL else []
    done = subprocess.run(command, env=environment, check=True, capture_output=True, timeout=280)
    return json.loads(done.stdout)


@pytest.fixture
def found(printed):
    """Launches by case."""
    cases: dict[str, list] = {}
    for one in printed["launches"]:
        cases.setdefault(one["case"], []).append(one)
    return cases


def offered(launches):
    return {(*one["types"], one["tactic"]) for one in launches}


def widths(one):
    """Of the accesses in bytes: loads, then stores."""
    return {int(width) for width in one["loads"]}, {int(width) for width in one["stores"]}


def test_every_plugin_is_driven_here():
    """No plugin is left out, and every operation without one says why."""
    folder = Path(kernels_geglu.__file__).parents[1]
    plugins = {path.parent.name for path in folder.glob("*/plugin.py")}
    driven = {plugin.launch.__module__.split(".")[-2] for plugin in plugin_launches.PLUGINS}
    assert driven == plugins
    for path in folder.glob("*/kernel.py"):
        said = (path.parent / "README.md").read_text("utf-8")
        assert (path.parent.name in plugins) != ("no TensorRT plugin" in said), path.parent.name


def test_every_kernel_assembles_and_takes_pointers_and_integers_only(found):
    assert len(found) >= 8
    for launches in found.values():
        for one in launches:
            assert one["assembler_says"] == ""
            assert one["version"] == "8.0"
            assert one["arguments"] == len(one["types"]) + len(one["integers"])
            assert one["shared_bytes"] <= 48 * 1024


def test_geglu_is_offered_in_each_type_with_each_tactic(found):
    launches = found["geglu"]
    assert offered(launches) == {(t, t, tactic) for t in TYPES for tactic in (512, 1024, 2048)}
    for one in launches:
        assert one["output_shapes"] == [[2, 4096, 1280]]
        assert one["integers"] == [1280]
        assert one["grid"] == [2 * 4096, -(-1280 // one["tactic"]), 1]
        assert one["thread_count"] * 8 == one["tactic"]
        assert widths(one) == ({16}, {16})


def test_a_width_that_is_not_known_is_read_by_the_element(found):
    for one in found["geglu, dynamic width"]:
        size = {"FLOAT": 4}.get(one["types"][0], 2)
        assert widths(one) == ({size}, {size})


@pytest.mark.parametrize(
    ("case", "kernel", "integers"),
    [
        ("group norm, resident", "group_resident_fwd_kernel", [40, 64]),
        ("group norm, streamed", "group_streamed_fwd_kernel", [10, 4096]),
        ("group norm, dynamic size", "group_streamed_fwd_kernel", [40, 64]),
    ],
)
def test_group_norm_takes_the_kernel_that_fits(found, case, kernel, integers):
    [one] = found[case]
    assert one["name"] == kernel
    assert one["integers"] == integers
    assert one["grid"] == [2 * 32, 1, 1]
    assert widths(one)[1] == ({2} if "dynamic" in case else {16})


@pytest.mark.parametrize("depth", DEPTHS)
def test_attention_offers_the_tiles_that_fit(found, depth):
    launches = found[f"attention, {depth}"]
    tiles = {kind: fitting_tactics(depth, name) for kind, name in zip(TYPES, FLOATS, strict=True)}
    assert offered(launches) == {(*[t] * 4, tactic) for t in TYPES for tactic in tiles[t]}
    assert all(tiles.values())
    for one in launches:
        queries, keys, _ = TILES[one["tactic"] - 1]
        assert one["output_shapes"] == [[2, 8, 1024, depth]]
        assert one["grid"] == [-(-1024 // queries), 2 * 8, 1]
        width = depth // math.gcd(depth, 16)
        strides = [1024 * width, width, width, *[77 * width, width, width] * 2]
        assert one["integers"] == [1, 1024, 77, *strides]
        # 40 is no multiple of 16, and 8 values of half precision are 16 bytes. A small tile has
        # fewer for each of its 128 threads.
        size = 4 if one["types"][0] == "FLOAT" else 2
        assert size == 2 or queries <= 32
        main, rest = depth_blocks(depth)
        row = (rest or main) * size
        assert min(widths(one)[0]) == min(16, min(queries, keys) * row // 128)
        assert min(widths(one)[1]) == min(16, queries * row // 128)


@pytest.mark.parametrize("history", (1, 2) if FULL else (2,))
def test_the_guided_step_takes_outputs_of_any_type_and_gives_fp32(found, history):
    launches = found[f"guided step, {history}"]
    rest = ("FLOAT", "FLOAT", "FLOAT", "INT32", "FLOAT", "FLOAT", "FLOAT")
    assert offered(launches) == {(t, *rest, tactic) for t in TYPES for tactic in (512, 1024, 2048)}
    for one in launches:
        assert one["output_shapes"] == [[8, 4, 64, 64]] * 2
        assert one["integers"] == [8, 4 * 64 * 64]
        assert one["grid"] == [8, 4 * 64 * 64 // one["tactic"], 1]
        assert one["thread_count"] * 8 == one["tactic"]
        # By 4 bytes only the two numbers of rows, the coefficients, and nothing that is written.
        assert one["loads"]["4"] == 2 + 3 + 2 * history
        assert widths(one) == ({4, 16}, {16})
        assert not one["fuses_multiply_add"]


@pytest.mark.parametrize("rank", RANKS)
def test_the_bank_takes_its_adapters_as_inputs(found, rank):
    launches = found[f"lora bank, {rank}"]
    types = {(*[kind] * 4, "FLOAT", kind) for kind in TYPES}
    assert offered(launches) == {(*t, tactic) for t in types for tactic in (256, 512, 1024)}
    for one in launches:
        narrow = one["types"][0] == "FLOAT" and rank > 64
        assert one["output_shapes"] == [[2, 4096, 2560]]
        assert one["integers"] == [4096, 2 * 4096, 320, 2560, rank]
        assert one["grid"] == [2 * 4096 // (32 if narrow else 64), -(-2560 // one["tactic"]), 1]
        assert widths(one)[1] == {16}


def test_what_cannot_be_served_is_refused_when_the_engine_is_built(printed):
    refused = printed["refused"]
    assert refused["attention, dynamic depth"] == (
        "the depth of attention's heads has to be known when the engine is built"
    )
    assert refused["attention, wide heads"] == "attention takes heads of up to 256 values, not 512"
    assert "guided_step's history has to be known" in refused["guided step, dynamic history"]
    assert "rank of lora_bank's adapters has to be known" in refused["lora bank, dynamic rank"]
    assert refused["lora bank, 129 ranks"] == "lora_bank takes up to 128 ranks, not 129"
    assert refused["group norm, int8"] == "no kernel takes DataType.INT8"
