"""The traffic report: bytes worked out by hand, known networks, and the command line."""

import json
from io import StringIO
from itertools import groupby
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from fused_networks import unet_counts
from PIL import Image
from rich.console import Console
from torch._subclasses.fake_tensor import FakeTensorMode
from typer.testing import CliRunner

from sangsang.services.runtime.building.failures import ExportFailed
from sangsang.services.runtime.building.traffic.__main__ import app
from sangsang.services.runtime.building.traffic.counting import Row, Traffic, count_traffic
from sangsang.services.runtime.building.traffic.figure import draw_traffic
from sangsang.services.runtime.building.traffic.networks import BadSize, of_folder, published
from sangsang.services.runtime.building.traffic.report import (
    GPUS,
    milliseconds,
    time_table,
    traffic_table,
)
from sangsang.services.runtime.models.folder import ModelFolder

POCKET = Path(__file__).parents[3] / "deploy" / "models" / "pocket"
# SD 1.5 at 512x512, two rows, the first level; sizes of a tensor in fp16.
ROWS, WIDTH = 2 * 4096, 1280
HALF = ROWS * WIDTH * 2
PICTURE = 2 * 320 * 64 * 64 * 2
GROUP = 2 * 1280 * 8 * 8 * 2
HEADS = 2 * 8 * 4096 * 40 * 2
SCORES = 2 * 8 * 4096 * 4096 * 2


def model(body, inputs, constants="", weights=()):
    """The size of `h`, where there is one, is stated: ONNX infers none for a GroupNorm."""
    constants = f"<{constants}>" if constants else ""
    parsed = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> '
        f"main ({inputs}) => (float y) {constants} {{ {body} }}"
    )
    parsed.graph.output[0].type.tensor_type.ClearField("shape")
    return ir.from_proto(parsed), tuple(weights)


def rows(body, inputs, constants="", weights=(), **options):
    found = count_traffic(*model(body, inputs, constants, weights), **options).rows
    return {row.kind: row for row in found}


def row(body, inputs, constants="", weights=(), **options):
    [one] = rows(body, inputs, constants, weights, **options).values()
    return one


GEGLU = "value, gate = Split <axis = 2, num_outputs = 2> (x) g = Gelu(gate) y = Mul(value, g)"
NORM = "h = GroupNormalization <num_groups = 32> (x, w, b) s = Sigmoid(h) y = Mul(h, s)"
ATTENTION = (
    "qs = Mul(q, c) t = Transpose <perm = [0, 1, 3, 2]> (k) ks = Mul(t, c) s = MatMul(qs, ks) "
    "p = Softmax(s) y = MatMul(p, v)"
)


def test_geglu():
    """Split reads two halves and writes two, the gelu reads and writes one, the product three."""
    projected = "float[2, 4096, 2560] x"
    assert row(GEGLU, projected) == Row("GEGLU", 1, 9 * HALF, 3 * HALF, 3 * HALF)
    assert row(GEGLU, projected, views=True) == Row("GEGLU", 1, 5 * HALF, 3 * HALF, 3 * HALF)
    assert row(GEGLU, projected, float_bytes=4).unfused_bytes == 18 * HALF


@pytest.mark.parametrize(
    ("shape", "size", "passes"), [((320, 64, 64), PICTURE, 3), ((1280, 8, 8), GROUP, 2)]
)
def test_group_norm_and_silu(shape, size, passes):
    """Norm two reads and a write, sigmoid two, product three; our kernel keeps small groups."""
    channels = shape[0]
    inputs = f"float[2, {channels}, {shape[1]}, {shape[2]}] x"
    weights = f", float[{channels}] w, float[{channels}] b"
    vectors = 2 * channels * 2
    stated = f"float[2, {channels}, {shape[1]}, {shape[2]}] h"
    found = row(NORM, inputs + weights, stated, weights=("w", "b"))
    moved = (8 * size + vectors, passes * size + vectors, 2 * size + vectors)
    assert found == Row("GroupNorm + SiLU", 1, *moved)


@pytest.mark.parametrize("rank", [32, 129])
def test_an_adapter_bank(rank):
    """Products read two and write one each, the scaling reads two, the sum two; then at once."""
    x, low, matrix, scales = (
        2 * n for n in (2 * 4096 * 320, 2 * 4096 * rank, 320 * rank, 2 * rank)
    )
    slots = ", ".join(["0"] * rank)
    found = rows(
        "t = Unsqueeze(adapter_scale, one) base = MatMul(x, m) low = MatMul(x, a) "
        "c = Gather <axis = 2> (t, slot) h = Mul(low, c) d = MatMul(h, b) y = Add(base, d)",
        f"float[2, 4096, 320] x, float[320, {rank}] a, float[{rank}, 320] b, float[320, 320] m, "
        "float[2, 1] adapter_scale",
        f"int64[{rank}] slot = {{{slots}}}, int64[1] one = {{1}}",
    )["adapter bank"]
    unfused = 5 * x + 4 * low + 2 * matrix + scales
    least = 3 * x + 2 * matrix + scales
    # More ranks than the kernel takes are as they were.
    assert found == Row("adapter bank", 1, unfused, least if rank == 32 else unfused, least)


def test_group_norm_alone_has_no_kernel():
    norm = "h = GroupNormalization <num_groups = 32> (x, w, b) y = Identity(h)"
    inputs = "float[2, 320, 64, 64] x, float[320] w, float[320] b"
    found = row(norm, inputs, "float[2, 320, 64, 64] h", weights=("w", "b"))
    vectors = 2 * 320 * 2
    moved = (3 * PICTURE + vectors, 3 * PICTURE + vectors, 2 * PICTURE + vectors)
    assert found == Row("GroupNorm", 1, *moved)


@pytest.mark.parametrize(("depth", "fuses"), [(40, True), (512, False)])
def test_attention(depth, fuses):
    heads = HEADS // 40 * depth
    qkv = ", ".join(f"float[2, 8, 4096, {depth}] {name}" for name in "qkv")
    [found] = [row(ATTENTION, qkv, "float c = {0.5}")]
    # Both scaled, the key turned, the products read two and one; and the scale, twice.
    unfused = (4 + 2 + 2 + 2) * heads + 4 * SCORES + 2 * 2
    fused = 4 * heads
    assert found == Row("attention", 1, unfused, fused if fuses else unfused, fused)


def test_what_costs_nothing():
    """A weight that is turned round, a bias, a factor of 1, another shape."""
    body = (
        "t = Transpose <perm = [1, 0]> (w) m = MatMul(x, t) a = Add(m, b) d = Div(a, one) "
        "y = Reshape(d, shape)"
    )
    inputs = "float[2, 3, 8] x, float[5, 8] w, float[5] b"
    constants = "float one = {1}, int64[2] shape = {6, 5}"
    found = row(body, inputs, constants, weights=("w", "b"))
    moved = 2 * (2 * 3 * 8 + 5 * 8 + 2 * 3 * 5)
    assert found == Row("matrix product", 1, moved, moved, moved)


def test_an_added_tensor_is_no_bias():
    body = "m = MatMul(x, w) y = Add(m, r)"
    inputs = "float[2, 3, 8] x, float[8, 5] w, float[2, 3, 5] r"
    found = rows(body, inputs, weights=("w",))
    assert found["element by element"].unfused_bytes == 3 * 2 * (2 * 3 * 5)
    body = "m = MatMul(x, w) a = Add(m, b) y = Sub(a, m)"
    used_twice = rows(body, "float[2, 3, 8] x, float[8, 5] w, float[5] b", weights=("w", "b"))
    assert used_twice["element by element"].count == 2


def test_numbers_that_are_no_floats_keep_their_size():
    body = "n = IsNaN(x) y = Where(n, x, z)"
    found = row(body, "float[10] x, float[10] z", float_bytes=2)
    assert found.unfused_bytes == (20 + 10) + (10 + 20 + 20 + 20)


def test_a_lookup_reads_what_it_picks():
    found = row("y = Gather(w, i)", "int64[4] i, float[1000, 8] w", weights=("w",))
    assert found.unfused_bytes == 2 * (4 * 8 * 2)


def test_the_parts_add_up():
    body = f"{NORM.replace('y =', 'z =')} y = Conv(z, k)"
    inputs = "float[2, 320, 8, 8] x, float[320] w, float[320] b, float[4, 320, 1, 1] k"
    found = count_traffic(*model(body, inputs, "float[2, 320, 8, 8] h", ("w", "b", "k")))
    total = found.total
    assert total.unfused_bytes == sum(one.unfused_bytes for one in found.rows)
    assert found.weight_bytes == 2 * (320 + 320 + 4 * 320)
    assert [one.kind for one in found.rows] == ["GroupNorm + SiLU", "convolution"]


def test_an_unknown_size_is_said():
    with pytest.raises(ExportFailed, match="the size of y is not known"):
        row("y = Neg(x)", "float[N, 3] x")


@pytest.mark.parametrize(("name", "count"), [("sd15", 859_520_964), ("sdxl", 2_567_463_684)])
def test_published_networks_have_the_published_number_of_weights(name, count):
    with FakeTensorMode(), torch.no_grad():
        network, inputs = published(name, 512, 2).make()
        assert network(*inputs.values()).shape == (2, 4, 64, 64)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_the_shipped_unet():
    """What is counted is what the configuration asks for, and every weight is read."""
    folder = ModelFolder.open(POCKET)
    found = count_traffic(*of_folder(folder, "unet", 64, 2).graph())
    counts = {one.kind: one.count for one in found.rows}
    expected = unet_counts(json.loads((POCKET / "unet" / "config.json").read_text("utf-8")))
    fused = ("GEGLU", "GroupNorm", "GroupNorm + SiLU", "LayerNorm", "attention", "SiLU")
    assert [counts[kind] for kind in fused] == list(expected.values())
    store = folder.weights("unet")
    stored = sum(int(np.prod(tensor.shape)) for tensor in store.tensors.values())
    assert found.weight_bytes == 2 * stored
    for one in found.rows:
        assert one.unfused_bytes >= one.fused_bytes >= one.least_bytes > 0


@pytest.mark.parametrize("make", [published, None])
def test_a_size_that_is_none_of_the_models(make):
    with pytest.raises(BadSize, match="multiples of"):
        if make is None:
            of_folder(ModelFolder.open(POCKET), "unet", 60, 2)
        else:
            published("sd15", 500, 2)


def test_time_is_bytes_over_bandwidth():
    assert milliseconds(900e6, GPUS["V100"]) == pytest.approx(1.0)
    assert milliseconds(3.35e9, GPUS["H100"]) == pytest.approx(1.0)
    traffic = Traffic((Row("GEGLU", 1, 2_039_000_000, 1_020_000_000, 203_900_000),), 0)
    console = Console(width=100, record=True, file=StringIO())
    console.print(time_table(traffic, {"A100": GPUS["A100"]}))
    cells = console.export_text().split("A100")[1].replace("│", " ").split()
    assert cells[:5] == ["2039", "1", "0.5", "0.1", "0.5"]
    console.print(traffic_table(traffic, "t"))
    cells = console.export_text().split("GEGLU")[1].replace("│", " ").split()
    assert cells[:5] == ["1", "2,039", "1,020", "203.9", "2.00"]


def test_the_bars_are_as_long_as_the_figures(tmp_path):
    path = tmp_path / "deep" / "chart.png"
    draw_traffic(Traffic((Row("GEGLU", 1, 9_000, 3_000, 1_000),), 0), "title", path)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    longest = {
        name: max(
            (
                len(list(run))
                for line in pixels
                for same, run in groupby(line, key=tuple)
                if same == colour
            ),
            default=0,
        )
        for name, colour in {"red": (196, 78, 82), "blue": (76, 114, 176)}.items()
    }
    assert longest["red"] == pytest.approx(3 * longest["blue"], rel=0.03)


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    chart = tmp_path / "chart.png"
    arguments = [str(POCKET), "--module", "text_encoder", "--batch", "1", "--output", str(chart)]
    said = CliRunner().invoke(app, [*arguments, "--bandwidth", "500", "--precision", "fp32"])
    assert said.exit_code == 0, said.output
    for words in ("pocket text_encoder, 64x64, batch 1, fp32", "masked attention", "500 GB/s"):
        assert words in said.output
    assert all(gpu in said.output for gpu in GPUS)
    with Image.open(chart) as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere is neither a folder nor one of sd15, sdxl"),
        (["sd15", "--module", "vae_decoder"], "of sd15 only the unet is known"),
        ([str(POCKET), "--batch", "0"], "--batch"),
    ],
)
def test_what_the_user_can_mend_is_told(arguments, words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 2
    assert words in said.output
