"""The pass: replaces what the patterns find by nodes of our own domain.

A fused node carries what TensorRT's parser needs to take our plugin for it, and the model a local
function of the same maths, so that whoever has no such plugin runs the function. Nothing that is
built for the other backends goes through here.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from .activations import GEGLU, GELU, SILU
from .adapter_bank import LORA_BANK
from .attention import ATTENTION, MASKED_ATTENTION
from .matching import Match, NoMatch, Pattern, known_dtype
from .norms import GROUP_NORM, GROUP_NORM_SILU, LAYER_NORM
from .report import FusionReport, Left, Replaced

DOMAIN = "sangsang"
_VERSION = 1
# The operators' definitions that the patterns were written against: GroupNormalization has one
# weight a channel from here on.
OPSET = 21
# The plugin if it is registered, else the function (`aot`: never as Python at run time).
_PLUGIN: dict[str, str | int] = {
    "plugin_namespace": DOMAIN,
    "plugin_version": str(_VERSION),
    "aot": 1,
}

# Larger patterns come before those that are parts of them.
PATTERNS: tuple[Pattern, ...] = (
    GEGLU,
    GROUP_NORM_SILU,
    ATTENTION,
    MASKED_ATTENTION,
    LORA_BANK,
    GROUP_NORM,
    LAYER_NORM,
    SILU,
    GELU,
)
# No export of diffusers has them, but a norm or a gelu that is spelt out has.
_SPELT_OUT = ("Erf", "Tanh", "InstanceNormalization")


class UnknownGraph(ValueError):
    """The graph is not of the kind that the patterns were written for."""


@dataclass(frozen=True, slots=True)
class FusedGraph:
    """A graph with fused nodes.

    Attributes:
        content: the serialised model. Weights are referred to as before.
        report: what was replaced and what was left.
    """

    content: bytes
    report: FusionReport


def fuse_graph(content: bytes, patterns: Sequence[Pattern] = PATTERNS) -> FusedGraph:
    """Returns a graph with what the patterns find as single nodes.

    Args:
        content: a serialised model at opset 21, as `export_module` writes it.
        patterns: what to look for, larger patterns first.

    Raises:
        UnknownGraph: it is at another opset.
    """
    model = ir.from_proto(onnx.ModelProto.FromString(content))
    report = fuse(model, patterns)
    return FusedGraph(ir.to_proto(model).SerializeToString(deterministic=True), report)


def fuse(model: ir.Model, patterns: Sequence[Pattern] = PATTERNS) -> FusionReport:
    """Does the same to a model in memory; see `fuse_graph`.

    Looks at the main graph alone: neither into functions nor into branches and loops.
    """
    opset = model.opset_imports.get("")
    if opset != OPSET:
        raise UnknownGraph(f"the patterns are for opset {OPSET}; this graph is at opset {opset}")
    graph = model.graph
    node_count = len(graph)
    reasons: dict[ir.Node, list[str]] = defaultdict(list)
    replaced: list[Replaced] = []
    for pattern in patterns:
        for node in [n for n in graph if n.op_type == pattern.anchor and not n.domain]:
            # It may have gone into a match of this very pattern.
            if node.graph is not graph or not pattern.begins(node):
                continue
            try:
                match = pattern.find(node)
                _require_own(match)
            except NoMatch as exc:
                reasons[node].append(f"{pattern.name}: {exc}")
                continue
            replaced.append(_replace(graph, pattern, match, tuple(reasons.pop(node, ()))))
    passes.RemoveUnusedNodesPass()(model)
    _add_functions(model, patterns, {one.pattern for one in replaced})
    return FusionReport(tuple(replaced), _left(graph, reasons), node_count, len(graph))


def _require_own(match: Match) -> None:
    """Checks that nothing else uses what the nodes give, but for the last one's result."""
    inside = set(match.nodes)
    if len({node.graph for node in inside}) != 1:
        raise NoMatch("a part of it is in a branch or a loop")
    for node in match.nodes[:-1]:
        for value in node.outputs:
            if value.is_graph_output():
                raise NoMatch(f"{value.name} is an output of the graph too")
            if any(use.node not in inside for use in value.uses()):
                raise NoMatch(f"{value.name} is used elsewhere too")


def _replace(
    graph: ir.Graph, pattern: Pattern, match: Match, passed_over: tuple[str, ...]
) -> Replaced:
    last = match.nodes[-1]
    output = str(last.outputs[0].name)
    gone = (*match.moves, *match.nodes)
    values = tuple(str(value.name) for node in gone for value in node.outputs)
    attributes = {**{name: match.attributes[name] for name in pattern.attributes}, **_PLUGIN}
    fused = ir.Node(
        DOMAIN,
        pattern.name,
        match.inputs,
        [ir.convenience.convert_attribute(name, value) for name, value in attributes.items()],
        version=_VERSION,
        name=f"{pattern.name}_{output}",
    )
    ir.convenience.replace_nodes_and_values(
        graph, last, match.nodes, [fused], [last.outputs[0]], [fused.outputs[0]]
    )
    # Later patterns ask for it, and every fused operation keeps the type of its first input.
    dtype = known_dtype(match.inputs[0])
    fused.outputs[0].type = None if dtype is None else ir.TensorType(dtype)
    return Replaced(pattern.name, output, values, passed_over)


def _add_functions(model: ir.Model, patterns: Sequence[Pattern], used: set[str]) -> None:
    for pattern in patterns:
        if pattern.name in used:
            function = ir.from_proto(function_of(pattern))
            model.functions[function.identifier()] = function
    if used:
        model.graph.opset_imports[DOMAIN] = _VERSION


def function_of(pattern: Pattern) -> onnx.FunctionProto:
    """Returns a pattern's maths as a model-local function."""
    attributes = ", ".join((*pattern.attributes, *_PLUGIN))
    inputs = ", ".join(pattern.inputs)
    return onnx.parser.parse_function(
        f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]> '
        f"{pattern.name} <{attributes}> ({inputs}) => (y) {{ {pattern.body} }}"
    )


def _left(graph: ir.Graph, reasons: dict[ir.Node, list[str]]) -> tuple[Left, ...]:
    left: list[Left] = []
    for node in graph:
        if node.domain:
            continue
        if node in reasons:
            said = tuple(reasons[node])
        elif node.op_type in _SPELT_OUT:
            said = ("no pattern has it: what it is part of is spelt out",)
        else:
            continue
        left.append(Left(node.op_type, str(node.outputs[0].name), said))
    return tuple(left)
