"""The cache of builds: what is stored is found, what is damaged is not."""

import json
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from sangsang.services.runtime.engines.cache import (
    BuildKey,
    DamagedBuild,
    EngineCache,
    NotBuilt,
)

KEY = BuildKey("unet", "a" * 64, "onnxruntime", "1")


@pytest.fixture(params=[False, True], ids=["keyed", "single"])
def cache(request, tmp_path):
    return EngineCache(tmp_path / "cache", single=request.param)


def store(cache, key=KEY, content=b"graph"):
    with cache.writing(key) as target:
        (target / "graph.onnx").write_bytes(content)


def leftovers(cache):
    return [p for p in cache.root.rglob(".*") if cache.single or not p.name.endswith(".lock")]


def test_what_is_stored_is_found(cache):
    with pytest.raises(NotBuilt):
        cache.find(KEY)
    store(cache)
    assert (cache.find(KEY) / "graph.onnx").read_bytes() == b"graph"
    assert not leftovers(cache)


@pytest.mark.parametrize(
    "field",
    ["module_digest", "backend_version", "device", "precision", "profile"],
)
def test_every_field_of_the_key_counts(cache, field):
    store(cache)
    with pytest.raises(NotBuilt):
        cache.find(replace(KEY, **{field: "other"}))


def test_two_keys_live_side_by_side_unless_single(cache):
    other = replace(KEY, module_digest="b" * 64)
    store(cache)
    store(cache, other, b"other")
    assert (cache.find(other) / "graph.onnx").read_bytes() == b"other"
    if cache.single:
        with pytest.raises(NotBuilt):
            cache.find(KEY)
    else:
        assert (cache.find(KEY) / "graph.onnx").read_bytes() == b"graph"


def damage_content(path):
    (path / "graph.onnx").write_bytes(b"grapi")


def remove_file(path):
    (path / "graph.onnx").unlink()


def cut_entry(path):
    (path / "entry.json").write_text('{"format": 1')


def list_no_files(path):
    entry = json.loads((path / "entry.json").read_text())
    (path / "entry.json").write_text(json.dumps({**entry, "files": {}}))


def point_outside(path):
    entry = json.loads((path / "entry.json").read_text())
    (path / "entry.json").write_text(json.dumps({**entry, "files": {"../x": "0"}}))


@pytest.mark.parametrize(
    "harm", [damage_content, remove_file, cut_entry, list_no_files, point_outside]
)
def test_a_damaged_entry_is_refused_and_can_be_replaced(cache, harm):
    store(cache)
    harm(cache.find(KEY))
    with pytest.raises(DamagedBuild):
        cache.find(KEY)
    store(cache, content=b"again")
    assert (cache.find(KEY) / "graph.onnx").read_bytes() == b"again"


def test_a_failed_build_leaves_nothing(cache):
    def build():
        with cache.writing(KEY) as target:
            (target / "graph.onnx").write_bytes(b"half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        build()
    with pytest.raises(NotBuilt):
        cache.find(KEY)
    assert not leftovers(cache)


def test_a_failed_rebuild_keeps_the_old_entry(cache):
    store(cache)
    with pytest.raises(RuntimeError), cache.writing(KEY):
        raise RuntimeError("stop")
    assert cache.find(KEY)


def test_what_a_killed_build_left_goes_with_the_next(cache):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from sangsang.services.runtime.engines.cache import BuildKey, EngineCache\n"
        f"cache = EngineCache(Path(sys.argv[1]), single={cache.single})\n"
        f"with cache.writing({KEY!r}) as target:\n"
        "    (target / 'graph.onnx').write_bytes(b'half')\n"
        "    print('half', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(cache.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as build:
        assert build.stdout.readline() == b"half\n"
        build.kill()
    assert leftovers(cache)
    with pytest.raises(NotBuilt):
        cache.find(KEY)
    store(cache)
    assert (cache.find(KEY) / "graph.onnx").read_bytes() == b"graph"
    assert not leftovers(cache)


def test_builders_wait_for_each_other(cache):
    inside, peak = 0, 0

    def build():
        nonlocal inside, peak
        with cache.writing(KEY) as target:
            inside += 1
            peak = max(peak, inside)
            (target / "graph.onnx").write_bytes(b"graph")
            inside -= 1

    threads = [threading.Thread(target=build) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert peak == 1
    assert cache.find(KEY)
