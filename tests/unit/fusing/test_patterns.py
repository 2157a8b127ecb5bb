"""Each pattern alone: what is one, and what nearly is and has to be left as it was."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from fused_networks import assert_same, run

from sangsang.services.runtime.building.fusing.fuse import (
    DOMAIN,
    PATTERNS,
    UnknownGraph,
    function_of,
    fuse_graph,
)
from sangsang.services.runtime.engines.onnx_runtime_import import ort

SUPPORT = Path(__file__).parents[2] / "support"
X = "float[2, 4, 6, 8] x"
HEADS = "float[2, 4, 6, 8] q, float[2, 4, 5, 8] k, float[2, 4, 5, 8] v"
TOKENS = "float[B, 4, N, 8] q, float[B, 4, M, 8] k, float[B, 4, M, 8] v"
VECTORS = "float[4] w = {1.5, 0.5, -1, 2}, float[4] b = {0.5, -0.5, 0.25, 1}"
NORM = "GroupNormalization <num_groups = 2> (x, w, b)"
GEGLU = "value, gate = Split <axis = 3, num_outputs = 2> (x) g = Gelu(gate) y = Mul(value, g)"
SCORES = "qs = Mul(q, c) t = Transpose <perm = [0, 1, 3, 2]> (k) ks = Mul(t, c) s = MatMul(qs, ks)"
HALF = "float c = {0.5}"
ATTENTION = f"{SCORES} p = Softmax(s) y = MatMul(p, v)"
MASKED = f"{SCORES} m = Add(s, mask) p = Softmax(m)"
GUARD = "n = IsNaN(p) o = Where(n, zero, p) y = MatMul(o, v)"
# As torch's exporter transposes a key whose sizes are not known.
TURNED = (
    "shape = Shape(k) count = Slice(shape, i2, i1) depth = Slice(shape, i1, last) "
    "front = Slice(shape, first, i2) flat = Concat <axis = 0> (i1, count, depth) "
    "back = Concat <axis = 0> (front, depth, count) k3 = Reshape(k, flat) "
    "t3 = Transpose <perm = [0, 2, 1]> (k3) t = Reshape(t3, back) "
)
INDICES = (
    "int64[1] i1 = {-1}, int64[1] i2 = {-2}, int64[1] last = {9223372036854775807}, "
    "int64[1] first = {-9223372036854775807}"
)
TURNED_ATTENTION = (
    f"{TURNED} qs = Mul(q, c) cl = CastLike(c, t) ks = Mul(t, cl) s = MatMul(qs, ks) "
    "p = Softmax(s) y = MatMul(p, v)"
)

# An adapted layer without its branch.
BANKED = "float[2, 3, 4] x, float[4, 6] a, float[6, 5] b, float[4, 5] m, float[2, 2] adapter_scale"
SLOTS = "int64[6] slot = {0, 0, 1, 1, 1, 0}, int64[1] one = {1}"
BANK = (
    "t = Unsqueeze(adapter_scale, one) base = MatMul(x, m) low = MatMul(x, a) "
    "c = Gather <axis = 2> (t, slot) h = Mul(low, c) d = MatMul(h, b) y = Add(base, d)"
)


def graph(body, inputs=X, *, constants="", outputs="y", opset=21):
    """A model from ONNX text. Results are declared without a shape."""
    declared = ", ".join(f"float {name}" for name in outputs.split())
    constants = f"<{constants}>" if constants else ""
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": {opset}]> '
        f"main ({inputs}) => ({declared}) {constants} {{ {body} }}"
    )
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    # Types of what lies between, as the exporter writes them.
    return onnx.shape_inference.infer_shapes(model).SerializeToString()


def fed(content):
    """Random inputs; sizes that are free are 3."""
    random = np.random.default_rng(0)
    feeds = {}
    model = onnx.ModelProto.FromString(content)
    types = {1: np.float32, 9: np.bool_, 11: np.float64}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [size.dim_value or 3 for size in kind.shape.dim]
        feeds[value.name] = random.standard_normal(shape).astype(types[kind.elem_type])
    return feeds


MATCHES = {
    "geglu": (graph(GEGLU), {"Geglu": 1}),
    "geglu, sizes given, product turned round": (
        graph(
            'a, g = Split <axis = -1> (x, halves) e = Gelu <approximate = "none"> (g)'
            " y = Mul(e, a)",
            constants="int64[2] halves = {4, 4}",
        ),
        {"Geglu": 1},
    ),
    "group norm and silu": (
        graph(f"h = {NORM} s = Sigmoid(h) y = Mul(h, s)", constants=VECTORS),
        {"GroupNormSilu": 1},
    ),
    "group norm and silu, product turned round": (
        graph(f"h = {NORM} s = Sigmoid(h) y = Mul(s, h)", constants=VECTORS),
        {"GroupNormSilu": 1},
    ),
    "group norm": (graph(f"y = {NORM}", constants=VECTORS), {"GroupNorm": 1}),
    "layer norm": (
        graph("y = LayerNormalization(x, w, b)", "float[2, 3, 4] x", constants=VECTORS),
        {"LayerNorm": 1},
    ),
    "silu": (graph("s = Sigmoid(x) y = Mul(x, s)"), {"Silu": 1}),
    "gelu": (graph("y = Gelu(x)"), {"ExactGelu": 1}),
    "attention": (graph(ATTENTION, HEADS, constants=HALF), {"ScaledAttention": 1}),
    "attention, sizes not known": (
        graph(TURNED_ATTENTION, TOKENS, constants=f"{HALF}, {INDICES}"),
        {"ScaledAttention": 1},
    ),
    "attention with a mask": (
        graph(
            f"{MASKED} {GUARD}",
            f"{HEADS}, float[6, 5] mask",
            constants=f"{HALF}, float zero = {{0}}",
        ),
        {"MaskedAttention": 1},
    ),
    "adapter bank": (graph(BANK, BANKED, constants=SLOTS), {"LoraBank": 1}),
}
# What is needed beside the one node: the layer itself, and its rows' scales.
REMAINING = {"adapter bank": ["Unsqueeze", "MatMul", "Gather"]}

# Body, inputs, constants, outputs; what is fused all the same; what is said of what is left.
NEARLY = {
    "value and gate exchanged": (
        GEGLU.replace("Gelu(gate)", "Gelu(value)").replace("Mul(value", "Mul(gate"),
        {"ExactGelu": 1},
        "Geglu: the gelu is of the first half",
    ),
    "the gate times its own gelu": (
        GEGLU.replace("Mul(value", "Mul(gate"),
        {"ExactGelu": 1},
        "Geglu: the gelu of the second half is not multiplied by the first",
    ),
    "split along another axis": (
        GEGLU.replace("axis = 3", "axis = 2"),
        {"ExactGelu": 1},
        "Geglu: the split is not known to be of the last axis",
    ),
    "uneven halves": (
        "value, rest = Split <axis = 3> (x, sizes) g = Gelu(rest) one = Mul(value, g)"
        " y = Identity(one)",
        {"ExactGelu": 1},
        "Geglu: the row is not known to be split into halves",
        {"constants": "int64[2] sizes = {1, 7}"},
    ),
    "thirds": (
        "value, gate, more = Split <axis = 3, num_outputs = 3> (x) g = Gelu(gate)"
        " z = Mul(value, g) y = Concat <axis = 3> (z, more)",
        {"ExactGelu": 1},
        "Geglu: the row is split into 3",
        {"inputs": "float[2, 4, 6, 9] x"},
    ),
    "gelu by tanh": (
        GEGLU.replace("Gelu(", 'Gelu <approximate = "tanh"> ('),
        {},
        "ExactGelu: the gelu is approximated by tanh",
    ),
    "the value is an output too": (
        GEGLU,
        {"ExactGelu": 1},
        "Geglu: value is an output of the graph too",
        {"outputs": "y value"},
    ),
    "the gelu is used twice": (
        f"{GEGLU.replace('y =', 'z =')} y = Sub(z, g)",
        {"ExactGelu": 1},
        "Geglu: g is used by 2 nodes",
    ),
    "group norm used between": (
        f"h = {NORM} s = Sigmoid(h) z = Mul(h, s) y = Add(z, h)",
        {"GroupNorm": 1, "Silu": 1},
        "GroupNormSilu: h is used elsewhere too",
        {"constants": VECTORS},
    ),
    "group norm is an output too": (
        f"h = {NORM} s = Sigmoid(h) y = Mul(h, s)",
        {"GroupNorm": 1, "Silu": 1},
        "GroupNormSilu: h is an output of the graph too",
        {"constants": VECTORS, "outputs": "y h"},
    ),
    "the sigmoid is an output too": (
        f"h = {NORM} s = Sigmoid(h) y = Mul(h, s)",
        {"GroupNorm": 1},
        "Silu: s is an output of the graph too",
        {"constants": VECTORS, "outputs": "y s"},
    ),
    "the sigmoid of something else": (
        "n = Neg(x) s = Sigmoid(n) y = Mul(x, s)",
        {},
        "Silu: what the sigmoid is multiplied by is not what it is taken of",
    ),
    "the sigmoid times itself": (
        "s = Sigmoid(x) y = Mul(s, s)",
        {},
        "Silu: Mul takes one value twice",
    ),
    "moments in fp16": (
        f"y = {NORM.replace('num_groups', 'stash_type = 10, num_groups')}",
        {},
        "GroupNorm: its moments are not taken in fp32",
        {"constants": VECTORS},
    ),
    "fp64": (
        "n = Cast <to = 11> (x) s = Sigmoid(n) d = Mul(n, s) y = Cast <to = 1> (d)",
        {},
        "Silu: n is of DOUBLE",
    ),
    "layer norm over two axes": (
        "y = LayerNormalization <axis = 1> (x, w, b)",
        {},
        "LayerNorm: it is over more than the last axis",
        {"inputs": "float[3, 2, 2] x, float[2, 2] w, float[2, 2] b"},
    ),
    "layer norm without a bias": (
        "y = LayerNormalization(x, w)",
        {},
        "LayerNorm: it has no bias",
        {"inputs": "float[2, 3, 4] x", "constants": VECTORS},
    ),
    "layer norm whose mean is an output": (
        "y, mean = LayerNormalization(x, w, b)",
        {},
        "LayerNorm: its moments are used elsewhere",
        {"inputs": "float[2, 3, 4] x", "constants": VECTORS, "outputs": "y mean"},
    ),
    "softmax over the queries": (
        ATTENTION.replace("Softmax(", "Softmax <axis = 2> ("),
        {},
        "ScaledAttention: the softmax is not over the last axis",
    ),
    "the scores are an output too": (
        ATTENTION,
        {},
        "ScaledAttention: s is an output of the graph too",
        {"outputs": "y s"},
    ),
    "the weights are used twice": (
        f"{ATTENTION.replace('y =', 'z =')} u = ReduceSum(p) y = Add(z, u)",
        {},
        "ScaledAttention: p is used by 2 nodes",
    ),
    "another scale for the key": (
        ATTENTION.replace("Mul(t, c)", "Mul(t, d)"),
        {},
        "ScaledAttention: query and key are not multiplied by one positive number",
        {"constants": f"{HALF}, float d = {{0.25}}"},
    ),
    "a scale that is an input": (
        ATTENTION,
        {},
        "ScaledAttention: query or key is not multiplied by a number",
        {"constants": "", "inputs": f"{HEADS}, float[1] c"},
    ),
    "a scale that may be overridden": (
        ATTENTION,
        {},
        "ScaledAttention: query or key is not multiplied by a number",
        {"constants": "", "inputs": f"{HEADS}, float c = {{0.5}}"},
    ),
    "a scale for each key": (
        ATTENTION.replace("Mul(t, c)", "Mul(t, e)"),
        {},
        "ScaledAttention: query or key is not multiplied by a number",
        {"constants": f"{HALF}, float[5] e = {{1, 2, 3, 4, 5}}"},
    ),
    "a scale for each channel": (
        ATTENTION.replace("Mul(t, c)", "Mul(t, e)"),
        {},
        "ScaledAttention: query or key is not multiplied by a number",
        {"constants": f"{HALF}, float[1, 1, 8, 1] e = {{1, 2, 3, 4, 5, 6, 7, 8}}"},
    ),
    "a key turned otherwise": (
        ATTENTION.replace("[0, 1, 3, 2]", "[1, 0, 3, 2]"),
        {},
        "ScaledAttention: the key's last two axes are not exchanged",
        {"inputs": "float[4, 4, 6, 8] q, float[4, 4, 5, 8] k, float[4, 4, 5, 8] v"},
    ),
    "a key regrouped instead of turned": (
        TURNED_ATTENTION.replace("(front, depth, count)", "(front, count, depth)").replace(
            "s = MatMul(qs, ks)", "kt = Transpose <perm = [0, 1, 3, 2]> (ks) s = MatMul(qs, kt)"
        ),
        {},
        "ScaledAttention: Transpose comes before it, not Mul",
        {"inputs": TOKENS, "constants": f"{HALF}, {INDICES}"},
    ),
    "a square key that is not turned": (
        # 8 x 8: the shapes alone do not tell.
        TURNED_ATTENTION.replace("[0, 2, 1]", "[0, 1, 2]"),
        {},
        "ScaledAttention: the key's last two axes are not exchanged",
        {
            "inputs": "float[2, 4, N, 8] q, float[2, 4, 8, 8] k, float[2, 4, 8, 8] v",
            "constants": f"{HALF}, {INDICES}",
        },
    ),
    "the keys of two rows joined": (
        "k3 = Reshape(k, flat) t3 = Transpose <perm = [0, 2, 1]> (k3) t = Reshape(t3, back) "
        + ATTENTION.replace("t = Transpose <perm = [0, 1, 3, 2]> (k) ", ""),
        {},
        "ScaledAttention: the key's last two axes are not exchanged",
        {
            "inputs": "float[2, 4, 6, 8] q, float[2, 4, 5, 8] k, float[2, 4, 10, 8] v",
            "constants": f"{HALF}, int64[3] flat = {{-1, 5, 8}}, int64[4] back = {{1, 4, 8, 10}}",
        },
    ),
    "weights on the right": (
        ATTENTION.replace("MatMul(p, v)", "MatMul(v, p)"),
        {},
        "ScaledAttention: the weights are the second factor",
        {"inputs": "float[2, 4, 6, 8] q, float[2, 4, 5, 8] k, float[2, 4, 3, 6] v"},
    ),
    "heads folded into the batch": (
        ATTENTION.replace("[0, 1, 3, 2]", "[0, 2, 1]"),
        {},
        "ScaledAttention: the key's last two axes are not exchanged",
        {"inputs": "float[8, 6, 8] q, float[8, 5, 8] k, float[8, 5, 8] v"},
    ),
    "a mask that leaves NaN": (
        f"{MASKED} y = MatMul(p, v)",
        {},
        "MaskedAttention: rows without any key are not turned to 0",
        {"inputs": f"{HEADS}, float[6, 5] mask"},
    ),
    "a mask whose NaN become 1": (
        f"{MASKED} {GUARD}",
        {},
        "MaskedAttention: rows without any key are not turned to 0",
        {"inputs": f"{HEADS}, float[6, 5] mask", "constants": f"{HALF}, float zero = {{1}}"},
    ),
    "a part in a branch": (
        "s = Sigmoid(x) c = Constant <value = bool {1}> () y = If (c) <"
        "then_branch = t () => (float[2, 4, 6, 8] a) { a = Mul(x, s) }, "
        "else_branch = e () => (float[2, 4, 6, 8] d) { d = Identity(x) }>",
        {},
        "Silu: a part of it is in a branch or a loop",
    ),
    "adapters of another input": (
        BANK.replace("MatMul(x, a)", "MatMul(z, a)"),
        {},
        "LoraBank: it is not added to what its layer makes of the same input",
        {"inputs": f"{BANKED}, float[2, 3, 4] z", "constants": SLOTS},
    ),
    "adapters whose layer is more than a product": (
        BANK.replace("base = MatMul(x, m)", "n = MatMul(x, m) base = Neg(n)"),
        {},
        "LoraBank: Neg comes before it, not MatMul",
        {"inputs": BANKED, "constants": SLOTS},
    ),
    "scales for each token": (
        BANK.replace("t = Unsqueeze(adapter_scale, one)", "t = Unsqueeze(adapter_scale, zero)"),
        {},
        "LoraBank: its scales are not one for each row and column",
        {
            "inputs": BANKED.replace("float[2, 2] adapter", "float[3, 2] adapter"),
            "constants": f"{SLOTS}, int64[1] zero = {{0}}",
        },
    ),
    "a bank whose low product is used elsewhere": (
        BANK.replace("y = Add(base, d)", "r = Add(base, d) s = ReduceSum(low) y = Add(r, s)"),
        {},
        "LoraBank: low is used elsewhere too",
        {"inputs": BANKED, "constants": SLOTS},
    ),
    "a gelu spelt out": (
        "e = Erf(x) y = Mul(x, e)",
        {},
        "no pattern has it",
    ),
}


def nearly(case):
    body, counts, reason, *rest = NEARLY[case]
    options = {"inputs": X, "constants": "", "outputs": "y", **(rest or [{}])[0]}
    if "qs = Mul(q, c)" in body:
        options["inputs"] = HEADS if options["inputs"] == X else options["inputs"]
        if "constants" not in (rest or [{}])[0]:
            options["constants"] = HALF
    model = graph(
        body,
        options["inputs"],
        constants=options["constants"],
        outputs=options["outputs"],
    )
    return model, counts, reason


def outputs_of(content):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, fed(content))


@pytest.mark.parametrize("case", MATCHES)
def test_a_pattern_becomes_one_node(case):
    plain, counts = MATCHES[case]
    fused = fuse_graph(plain)
    assert fused.report.counts == counts
    assert fused.report.left == ()
    nodes = onnx.ModelProto.FromString(fused.content).graph.node
    assert len([node for node in nodes if node.domain == DOMAIN]) == 1
    assert [node.op_type for node in nodes if not node.domain] == REMAINING.get(case, [])
    assert_same(plain, fused.content, fed(plain))


@pytest.mark.parametrize("case", NEARLY)
def test_what_nearly_is_a_pattern_is_left_and_said(case):
    plain, counts, reason = nearly(case)
    fused = fuse_graph(plain)
    assert fused.report.counts == counts
    left = [one.reasons for one in fused.report.left]
    passed_over = [one.passed_over for one in fused.report.replaced]
    assert any(said.startswith(reason) for group in (*left, *passed_over) for said in group)
    for one, other in zip(outputs_of(plain), outputs_of(fused.content), strict=True):
        np.testing.assert_array_equal(one, other)


def test_each_norm_keeps_its_own_numbers():
    norms = "GroupNormalization <num_groups = {}, epsilon = {}> (x, w, b)"
    body = f"h = {norms.format(2, 0.5)} s = Sigmoid(h) a = Mul(h, s) c = {norms.format(4, 2.0)}"
    last = "d = LayerNormalization <epsilon = 0.125> (r, w, b) i = Add(a, c) y = Sub(i, d)"
    row = "r = Transpose <perm = [0, 2, 3, 1]> (x)"
    plain = graph(f"{row} {body} {last}", "float[4, 4, 4, 4] x", constants=VECTORS)
    fused = fuse_graph(plain)
    nodes = onnx.ModelProto.FromString(fused.content).graph.node
    numbers = {
        node.op_type: [
            onnx.helper.get_attribute_value(a) for a in node.attribute if a.name in NUMBERS
        ]
        for node in nodes
        if node.domain
    }
    assert numbers == {"GroupNormSilu": [2, 0.5], "GroupNorm": [4, 2.0], "LayerNorm": [0.125]}
    assert_same(plain, fused.content, fed(plain))


NUMBERS = ("groups", "eps", "root_scale")


def test_a_row_without_any_key_is_zero_as_before():
    plain, _ = MATCHES["attention with a mask"]
    feeds = fed(plain)
    feeds["mask"][2] = -np.inf
    fused = fuse_graph(plain).content
    assert (run(fused, feeds)[:, :, 2] == 0).all()
    np.testing.assert_array_equal(run(fused, feeds), run(plain, feeds))


def test_a_turned_key_may_be_used_elsewhere():
    plain = graph(
        f"{ATTENTION.replace('y =', 'z =')} u = ReduceSum(t) y = Add(z, u)", HEADS, constants=HALF
    )
    fused = fuse_graph(plain)
    assert fused.report.counts == {"ScaledAttention": 1}
    assert_same(plain, fused.content, fed(plain))


def test_another_opset_is_refused():
    with pytest.raises(UnknownGraph, match="for opset 21; this graph is at opset 20"):
        fuse_graph(graph("y = Gelu(x)", opset=20))


def test_only_what_is_asked_for():
    plain, _ = MATCHES["group norm and silu"]
    only_silu = [pattern for pattern in PATTERNS if pattern.name == "Silu"]
    assert fuse_graph(plain, only_silu).report.counts == {"Silu": 1}


def test_the_report_in_words():
    plain, _, _ = nearly("gelu by tanh")
    assert fuse_graph(plain).report.lines() == [
        "3 nodes became 3",
        "left: 1 x Gelu (Geglu: the gelu is approximated by tanh, the kernel's is exact; "
        "ExactGelu: the gelu is approximated by tanh, the kernel's is exact)",
    ]
    plain, _ = MATCHES["silu"]
    assert fuse_graph(plain).report.lines() == ["2 nodes became 1", "1 x Silu"]


def test_no_operation_has_the_name_of_a_standard_one():
    """TensorRT's parser looks up the name first, whatever the domain."""
    taken = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    assert not taken & {pattern.name for pattern in PATTERNS}


def attributes_of(content):
    """Attributes of the only fused node."""
    nodes = onnx.ModelProto.FromString(content).graph.node
    [node] = [node for node in nodes if node.domain]
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)
def test_nodes_and_functions_have_the_same_attributes(pattern):
    declared = set(function_of(pattern).attribute)
    plain = next(plain for plain, counts in MATCHES.values() if pattern.name in counts)
    values = attributes_of(fuse_graph(plain).content)
    assert set(values) == declared
    assert values["plugin_namespace"] == DOMAIN.encode()
    assert values["plugin_version"] == b"1"
    assert values["aot"] == 1


def test_the_plugins_take_what_the_nodes_say(tmp_path):
    """The real plugin layer of TensorRT makes each plugin from its node's attributes."""
    if find_spec("tensorrt_bindings") is None:
        pytest.skip("tensorrt-cu13-bindings is not installed: pip install 'sangsang[kernels-test]'")
    nodes = {}
    for name in ("Geglu", "GroupNormSilu", "LoraBank", "ScaledAttention"):
        plain = next(plain for plain, counts in MATCHES.values() if name in counts)
        values = attributes_of(fuse_graph(plain).content)
        nodes[name] = {key: value for key, value in values.items() if key in NUMBERS}
    code = (
        "import json, sys, numpy as np, tensorrt_layer\n"
        "tensorrt = tensorrt_layer.install()\n"
        "from plugin_launches import PLUGINS\n"
        "for plugin in PLUGINS: plugin.register(89)\n"
        "found = {}\n"
        "for name, values in json.loads(sys.argv[1]).items():\n"
        "    creator = tensorrt.get_plugin_registry().get_creator(name, '1', 'sangsang')\n"
        "    wanted = [field.name for field in creator.field_names]\n"
        "    fields = [tensorrt.PluginField(k, np.array([values[k]])) for k in wanted]\n"
        "    creator.create_plugin(name, 'sangsang', fields, tensorrt.TensorRTPhase.BUILD,\n"
        "                          tensorrt.QuickPluginCreationRequest.STRICT_AOT)\n"
        "    found[name] = wanted\n"
        "print(json.dumps(found))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, json.dumps(nodes)],
        env=environment,
        check=True,
        capture_output=True,
        timeout=120,
    )
    own = {pattern.name: list(pattern.attributes) for pattern in PATTERNS}
    found = json.loads(done.stdout)
    assert found == {name: own[name] for name in nodes}
