"""What the fusion pass did and did not do to a graph, by node, with the reason."""

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Replaced:
    """One fused node.

    Attributes:
        pattern: its operation, e.g. `GroupNormSilu`.
        output: name of its result, which is that of the last node it stands for.
        values: names of all results of the nodes that it stands for.
        passed_over: why larger patterns did not take it, e.g. `GroupNormSilu: ...`.
    """

    pattern: str
    output: str
    values: tuple[str, ...]
    passed_over: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Left:
    """One node that a pattern begins at, and that was left as it was.

    Attributes:
        op_type: its operation, e.g. `Softmax`.
        output: name of its first result.
        reasons: why, for each pattern that was tried, e.g. `Silu: ...`.
    """

    op_type: str
    output: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FusionReport:
    """What became of a graph.

    Attributes:
        replaced: the fused nodes.
        left: what looked like a beginning of a pattern and was none.
        node_count: nodes of the graph before.
        fused_node_count: nodes of the graph after.
    """

    replaced: tuple[Replaced, ...]
    left: tuple[Left, ...]
    node_count: int
    fused_node_count: int

    @property
    def counts(self) -> dict[str, int]:
        """Fused nodes by operation."""
        return dict(sorted(Counter(one.pattern for one in self.replaced).items()))

    def lines(self) -> list[str]:
        """Returns the report in words: what was replaced, then what was left, grouped by reason."""
        said = [f"{self.node_count} nodes became {self.fused_node_count}"]
        said += [f"{count} x {pattern}" for pattern, count in self.counts.items()]
        reasons = Counter((one.op_type, "; ".join(one.reasons)) for one in self.left)
        for (op_type, reason), count in sorted(reasons.items()):
            said.append(f"left: {count} x {op_type} ({reason})")
        return said
