"""Every kernel as compiled for GPUs: it assembles, and moves what its formula has to move.

No GPU and no driver: Triton writes PTX, its assembler takes it. With SANGSANG_TEST_KERNELS=full it
is every type on every architecture; else half precision on all, and all types on the oldest.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from sangsang.kernels.compiling.ahead_of_time import without_scratch
from sangsang.kernels.compiling.ptx import argument_count, global_accesses

SUPPORT = Path(__file__).parents[2] / "support"
WIDE = 16
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
# Dynamic shared memory that a program may have: CUDA C++ programming guide, compute capabilities.
SHARED_LIMITS = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024}
# What TensorRT's launcher certainly gives a plugin.
PLUGIN_SHARED_LIMIT = 48 * 1024
PLUGINS = ("geglu", "group_resident", "group_streamed")


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    if find_spec("triton") is None:
        pytest.skip("triton is not installed: pip install 'sangsang[kernels-test]'")
    full = os.environ.get("SANGSANG_TEST_KERNELS") == "full"
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, "-m", "kernel_variants", *(["full"] if full else [])]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, timeout=280)
    return json.loads(done.stdout)


def wide_bytes(fact, kind):
    """Bytes that 16-byte accesses of a program move, each counted once."""
    return fact[kind].get(str(WIDE), 0) * WIDE * fact["thread_count"]


def title(fact):
    return f"{fact['kernel']} {fact['type']} sm_{fact['architecture']}"


def least(name, size):
    """Bytes that a program has to read and to write, per-channel scalars aside.

    Blocks of 1024 elements, the moments' and the application's of 128 pixels by 64 channels, a
    resident group of 64 by 64; a streamed group is read twice, in blocks of 4096.
    """
    row, tile = 1024 * size, 128 * 64 * size
    fp32_row = 1024 * 4
    # Each thread of 256 reads the mean, scale and bias of its eight (fp32: four) channels.
    vectors = 256 * {2: 8 * (4 + 4 + 2), 4: 4 * (4 + 4 + 4)}[size]
    return {
        "geglu": (2 * row, row),
        "gelu": (row, row),
        "silu": (row, row),
        "cast_to_fp32": (row, fp32_row),
        "cast_to_fp16": (row, fp32_row // 2),
        "cast_to_bf16": (row, fp32_row // 2),
        "layer_norm": (row + 2 * row, row),
        "softmax": (row, row),
        "group_resident": (64 * 64 * size, 64 * 64 * size),
        "group_streamed": (2 * 4096 * size, 4096 * size),
        "pixel_moments": (tile, 0),
        "pixel_apply": (tile + vectors, tile),
        "guided_step_1": (3 * row + 2 * fp32_row, 2 * fp32_row),
        "guided_step_2": (3 * row + 4 * fp32_row, 2 * fp32_row),
    }[name]


COUNTED = [
    *("geglu", "gelu", "silu", "cast_to_fp32", "cast_to_fp16", "cast_to_bf16", "layer_norm"),
    *("softmax", "group_resident", "group_streamed", "pixel_moments", "pixel_apply"),
    *("guided_step_1", "guided_step_2"),
]


@pytest.mark.parametrize("name", COUNTED)
def test_each_tensor_is_read_and_written_as_often_as_it_has_to_be(facts, name):
    found = [fact for fact in facts if fact["kernel"] == name]
    assert found
    for fact in found:
        moved = wide_bytes(fact, "loads"), wide_bytes(fact, "stores")
        assert moved == least(name, BYTES[fact["type"]]), title(fact)


def test_all_accesses_are_wide(facts):
    """But for scalars of a channel or a picture, and the moments, which are a thirtieth."""
    scalars = {"group_resident": 16, "group_streamed": 4, "guided_step_1": 7, "guided_step_2": 9}
    for fact in facts:
        name = fact["kernel"]
        if name in ("geglu_unhinted", "fold_moments"):
            continue
        narrow = sum(count for width, count in fact["loads"].items() if int(width) != WIDE)
        assert narrow <= scalars.get(name, 0), title(fact)
        narrow = sum(count for width, count in fact["stores"].items() if int(width) != WIDE)
        assert narrow == (2 if name == "pixel_moments" else 0), title(fact)


def test_without_hints_every_access_is_of_one_element(facts):
    found = [fact for fact in facts if fact["kernel"] == "geglu_unhinted"]
    assert found
    for fact in found:
        assert set(fact["loads"]) == set(fact["stores"]) == {str(BYTES[fact["type"]])}


def test_it_assembles_with_the_declared_arguments_only(facts):
    for fact in facts:
        assert fact["assembler_says"] == "", title(fact)
        assert fact["arguments"] == fact["declared"], title(fact)


def test_shared_memory_is_within_the_limit(facts):
    for fact in facts:
        limit = SHARED_LIMITS[fact["architecture"]]
        if fact["kernel"] in PLUGINS:
            limit = PLUGIN_SHARED_LIMIT
        assert fact["shared_bytes"] <= limit, title(fact)


def test_half_precision_is_rounded_to_the_nearest(facts):
    """Which the interpreter does not show for bf16."""
    found = [fact for fact in facts if fact["kernel"] in ("cast_to_fp16", "cast_to_bf16")]
    assert {fact["kernel"] for fact in found} == {"cast_to_fp16", "cast_to_bf16"}
    assert all(fact["rounds_to_nearest"] for fact in found)


def test_the_guided_step_rounds_products_as_the_cpu_does(facts):
    found = [fact for fact in facts if fact["kernel"].startswith("guided_step")]
    assert found
    assert not any(fact["fuses_multiply_add"] for fact in found)


PTX = """
.visible .entry k(
	.param .u64 .ptr .global .align 16 k_param_0,
	.param .u32 k_param_1,
	.param .u64 .ptr .global .align 1 k_param_2
)
{
	ld.param.b64 %rd1, [k_param_0];
	ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];
	ld.global.L1::evict_last.b16 { %rs1 }, [ %rd1 + 0 ];
	cp.async.cg.shared.global [ %r5 + 0 ], [ %rd1 + 0 ], 0x10, %r6;
	st.global.v2.b64 [ %rd1 + 0 ], { %rd2, %rd3 };
	st.shared.b32 [ %r1 ], %r2;
}
"""


def test_accesses_are_counted_by_width():
    accesses = global_accesses(PTX)
    assert accesses.loads == {16: 2, 2: 1}
    assert accesses.stores == {16: 1}
    assert accesses.load_bytes == 34
    assert accesses.store_bytes == 16


def test_scratch_is_taken_out_unless_it_is_used():
    assert argument_count(without_scratch(PTX, "k", 2)) == 2
    with pytest.raises(ValueError, match="k uses k_param_2"):
        without_scratch(PTX.replace("k_param_0]", "k_param_2]"), "k", 2)
    with pytest.raises(ValueError, match="no entry other"):
        without_scratch(PTX, "other", 2)
    with pytest.raises(ValueError, match="3 arguments, 5 were declared"):
        without_scratch(PTX, "k", 5)
