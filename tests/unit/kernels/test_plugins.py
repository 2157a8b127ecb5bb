"""The plugins in TensorRT's own Python layer: what TensorRT would launch, for which shapes.

Everything but TensorRT itself: that it takes the PTX and gives it these arguments needs a GPU.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[2] / "support"


# The layer is the same for all; `test_compiled.py` has the kernels for each.
ARCHITECTURES = (80, 89, 90) if os.environ.get("SANGSANG_TEST_KERNELS") == "full" else (89,)


@pytest.fixture(scope="module", params=ARCHITECTURES, ids=lambda architecture: f"sm_{architecture}")
def found(request, tmp_path_factory):
    """Launches by case."""
    for package in ("triton", "tensorrt_bindings"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'sangsang[kernels-test]'")
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, "-m", "plugin_launches", str(request.param)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, timeout=280)
    launches = json.loads(done.stdout)
    return {case: [one for one in launches if one["case"] == case] for case in CASES}


CASES = (
    *("geglu", "geglu, dynamic width"),
    *("group norm, resident", "group norm, streamed", "group norm, dynamic size"),
)


def test_every_kernel_assembles_and_takes_pointers_and_integers_only(found):
    assert all(found.values())
    for launches in found.values():
        for one in launches:
            assert one["assembler_says"] == ""
            assert one["arguments"] == len(one["types"]) + len(one["integers"])
            assert one["shared_bytes"] <= 48 * 1024


def test_geglu_is_offered_in_each_type_with_each_tactic(found):
    launches = found["geglu"]
    offered = {(*one["types"], one["tactic"]) for one in launches}
    types = ("FLOAT", "HALF", "BF16")
    assert offered == {(kind, kind, tactic) for kind in types for tactic in (512, 1024, 2048)}
    for one in launches:
        assert one["output_shapes"] == [[2, 4096, 1280]]
        assert one["integers"] == [1280]
        assert one["grid"] == [2 * 4096, -(-1280 // one["tactic"]), 1]
        assert one["thread_count"] * 8 == one["tactic"]
        assert set(one["loads"]) == set(one["stores"]) == {"16"}


def test_a_width_that_is_not_known_is_read_by_the_element(found):
    for one in found["geglu, dynamic width"]:
        size = {"FLOAT": "4"}.get(one["types"][0], "2")
        assert set(one["loads"]) == set(one["stores"]) == {size}


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
    assert set(one["stores"]) == {"2" if "dynamic" in case else "16"}
